"""The base of all models, and unions of models."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from voxtral_worker.errors import shown
from voxtral_worker.values.may import MAY_BE, May, at, may_be, one_of, rest
from voxtral_worker.values.nulls import with_null

T = TypeVar("T")


# Bad fields that one error names.
MAX_TOLD = 8


@dataclass(frozen=True)
class FromCaller:
    """The context of values that come from a caller; `known` is what validators may ask."""

    known: Any = None


def known_of(info: ValidationInfo) -> Any:
    """For validators: what the reader of a caller's value knows."""
    assert isinstance(info.context, FromCaller)
    return info.context.known


class Values(BaseModel):
    """Abstract: a frozen object whose fields say what they may be.

    From a caller null is the same as missing, whatever the key, but for the fields that may be
    null. A caller never sets, and never sees, what is `exclude`d.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)
    # Fields that a caller has to send although they have a default.
    needed: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def no_such(cls, keys: list[str]) -> str:
        """What an error says of unknown keys, behind the name of this object."""
        return f"has no field {', '.join(keys)}; it has {', '.join(options_of(cls))}"

    @classmethod
    def unknown(cls, given: dict[str, Any]) -> list[PydanticCustomError]:
        """The errors for unknown keys that are not null."""
        # The library would make an object of each.
        named = [shown(key) for key in itertools.islice(given, MAX_TOLD)]
        return [rest(cls.no_such(named))] if named else []

    @classmethod
    def clashes(cls, _: dict[str, Any]) -> list[PydanticCustomError]:
        """The errors of fields that do not go together; their values are not checked yet."""
        return []

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = handler.resolve_ref_schema(handler(schema))
        fields = options_of(cls)
        properties = found.get("properties", {})
        # The field by which a message is recognized is always there.
        fixed = [name for name, each in properties.items() if "const" in each]
        needed = (*fixed, *cls.needed, *found.get("required", ()))
        required = [name for name in properties if name in needed]
        found["properties"] = {
            name: {"const": each["const"]}
            if name in fixed
            else each
            if name in required
            else with_null(each)
            for name, each in properties.items()
            if name in fields
        }
        if required:
            found["required"] = required
        if found.pop("additionalProperties", None) is False:
            found["additionalProperties"] = {"type": "null"}
        found.pop("title", None)
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _from_caller(
        cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if not isinstance(info.context, FromCaller) or isinstance(value, cls):
            return handler(value)
        if not isinstance(value, dict):
            raise may_be("an object")
        fields = _nulls_of(cls)
        known: dict[str, Any] = {}
        for name, (is_value, is_needed) in fields.items():
            given = value.get(name)
            if given is not None or is_needed or (is_value and name in value):
                known[name] = given
        if cls.model_config["extra"] == "ignore":
            return handler(known)
        given = {key: each for key, each in value.items() if each is not None}
        unknown = cls.unknown({key: each for key, each in given.items() if key not in fields})
        clashes = cls.clashes(given)
        if not unknown and not clashes:
            return handler(known)
        wrong = [InitErrorDetails(type=each, input=None) for each in unknown]
        try:
            handler(known)
        except ValidationError as error:
            wrong += map(_again, error.errors(include_url=False))
        wrong += [InitErrorDetails(type=each, input=None) for each in clashes]
        raise ValidationError.from_exception_data(cls.__name__, wrong)


def options_of(model: type[Values]) -> dict[str, FieldInfo]:
    """The fields that a caller may set."""
    return {name: field for name, field in model.model_fields.items() if not field.exclude}


# Each message of a client asks for these.
@functools.cache
def _nulls_of(model: type[Values]) -> dict[str, tuple[bool, bool]]:
    """Of each option, whether null is a value of it, and whether it has to be sent."""
    found = {}
    for name, field in options_of(model).items():
        is_value = may_be_null(field)
        is_needed = not is_value and (field.is_required() or name in model.needed)
        found[name] = (is_value, is_needed)
    return found


def may_be_null(field: FieldInfo) -> bool:
    """Whether null is a value of a field, and not the same as leaving it out."""
    # A field that is null until it is set has the words within its type.
    has_words = any(isinstance(each, May) for each in field.metadata)
    return has_words and type(None) in get_args(field.annotation)


def _again(error: Any) -> InitErrorDetails:
    kind = PydanticCustomError(error["type"], MAY_BE, error.get("ctx"))
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"])


def validate(kind: type[T] | TypeAdapter[T], value: object, context: object) -> T:
    """A value as a model or a union of models. Raises the library's ValidationError."""
    if isinstance(kind, TypeAdapter):
        return kind.validate_python(value, context=context)
    assert issubclass(kind, Values)
    return kind.model_validate(value, context=context)


@dataclass(frozen=True)
class Picked:
    """In the annotation of a union: a function that says which of them a value is to be."""

    pick: Callable[[Any], "type[Values] | TypeAdapter[Any]"]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def check(value: object, info: ValidationInfo) -> object:
            return validate(self.pick(value), value, info.context)

        return core_schema.with_info_plain_validator_function(
            check, json_schema_input_schema=handler(source)
        )


@dataclass(frozen=True)
class Later:
    """In the annotation of an `object`: it is read as this kind later, once more is known."""

    kind: Any

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value, json_schema_input_schema=handler.generate_schema(self.kind)
        )


@dataclass(frozen=True)
class By:
    """In the annotation of a union of models: the text under this key says which one it is.

    A member may be a union that has a key of its own. `words` say what the text may be, and
    `refuse` makes the error of them. `rest` is the text of the members that do not have the key,
    and of an object without it.
    """

    key: str
    words: str = ""
    refuse: Callable[[str], PydanticCustomError] = may_be
    rest: str = ""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        kinds = dict(self._kinds(source))

        def pick(value: object) -> Any:
            if not isinstance(value, dict):
                raise may_be("an object")
            name = value.get(self.key)
            text = self.rest if name is None else name
            if not isinstance(text, str) or text not in kinds:
                raise at(self.key, self.refuse(self.words or one_of(*kinds)), name)
            return kinds[text]

        return Picked(pick).__get_pydantic_core_schema__(source, handler)

    def _kinds(self, source: Any) -> Iterator[tuple[str, Any]]:
        for member in get_args(source) or (source,):
            if isinstance(member, type) and issubclass(member, Values):
                yield from ((text, member) for text in self._texts(member))
            else:
                kind: TypeAdapter[Any] = TypeAdapter(member)
                yield from ((text, kind) for text, _ in self._kinds(get_args(member)[0]))

    def _texts(self, model: "type[Values]") -> list[str]:
        if self.key not in model.model_fields:
            return [self.rest]
        kinds = get_args(model.model_fields[self.key].annotation)
        # Of a field that may be left out, the texts are within its type.
        texts = [text for kind in kinds for text in get_args(kind) or (kind,)]
        return [text for text in texts if isinstance(text, str)]
