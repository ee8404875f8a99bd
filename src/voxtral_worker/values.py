"""What a value may be, said once: by the types of a model's fields.

A model (`Values`) checks what a caller sent, is the JSON Schema that callers read, and is the
frozen value that the worker uses. `read` makes one of a caller's JSON, or raises one error that
names each bad field, its value, and what it may be. No caller gets a sentence of the library.

The sentence of a field comes from the `May` in its annotation:

    silence_ms: Annotated[int, whole(100, 3000)] = 500

A model is strict: "5" and true are not numbers. The settings, which are read from texts, are not.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias, TypeVar, get_args

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
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from voxtral_worker.errors import BadInput, TooLarge, WorkerError, shown

T = TypeVar("T")
JsonSchema: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[int | str, ...]

# Bad fields that one error names.
MAX_TOLD = 8
# Kinds of errors: what a value may be; an error that is made of the field's name and its value.
_MAY_BE, _TOLD = "may_be", "told"


@dataclass(frozen=True)
class FromCaller:
    """The context of values that come from a caller; `known` is what validators may ask."""

    known: Any = None


def known_of(info: ValidationInfo) -> Any:
    """For validators: what the reader of a caller's value knows."""
    assert isinstance(info.context, FromCaller)
    return info.context.known


@dataclass(frozen=True, eq=False)
class May:
    """In an annotation: what a value may be.

    `words` complete "it must be ..."; without any they are those of the type, a `Literal`. `schema`
    stands for the type where the type alone allows more, `described` for what callers read of it.
    """

    words: str
    schema: CoreSchema | None = None
    described: JsonSchema | None = None
    # Whether the schema says itself what is wrong.
    tells: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source) if self.schema is None else self.schema
        if self.tells:
            return schema
        return core_schema.custom_error_schema(
            schema,
            _MAY_BE,
            custom_error_message=_MAY_BE,
            custom_error_context={"words": self.words or one_of(*get_args(source))},
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) if self.described is None else dict(self.described)


def one_of(*choices: str) -> str:
    """Choices in words."""
    return "one of " + ", ".join(choices)


def whole(low: int, high: int) -> May:
    """A whole number in a range."""
    schema = core_schema.int_schema(ge=low, le=high)
    return May(f"a whole number from {low} to {high}", schema)


def number(low: float, high: float) -> May:
    """A number in a range."""
    described = {"type": "number", "minimum": low, "maximum": high}
    return May(f"a number from {low:g} to {high:g}", _number(ge=low, le=high), described)


def at_least(low: float, most: float) -> May:
    """A number that is not smaller; what is larger than `most` counts as that."""
    schema = core_schema.no_info_after_validator_function(
        lambda value: min(value, most), _number(ge=low)
    )
    return May(f"a number of at least {low:g}", schema, {"type": "number", "minimum": low})


def above(low: float, high: float) -> May:
    """A number that is larger, and at most so large."""
    described = {"type": "number", "exclusiveMinimum": low, "maximum": high}
    words = f"a number above {low:g} and at most {high:g}"
    return May(words, _number(gt=low, le=high), described)


def _number(
    ge: float | None = None, gt: float | None = None, le: float | None = None
) -> CoreSchema:
    """A number within its limits; one that is whole stays whole."""
    least = None if ge is None else math.ceil(ge)
    above, most = (None if limit is None else math.floor(limit) for limit in (gt, le))
    kinds: list[CoreSchema | tuple[CoreSchema, str]] = [
        core_schema.int_schema(ge=least, gt=above, le=most),
        core_schema.float_schema(ge=ge, gt=gt, le=le),
    ]
    return core_schema.union_schema(kinds)


def clean_text(words: str, least: int = 0, most: int | None = None) -> May:
    """A text without half of a surrogate pair, so that it can be encoded."""
    # A text with any limit is encoded by the library.
    schema = core_schema.str_schema(min_length=least, max_length=most, strict=True)
    return May(words, schema)


def filled_text(most: int) -> May:
    """A text that says something; one that is too long is TooLarge."""
    words = "a text that is not empty"

    def check(value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise may_be(words)
        return not_too_long(value, most)

    schema = core_schema.no_info_plain_validator_function(check)
    return May(words, schema, {"type": "string", "minLength": 1, "maxLength": most}, tells=True)


def is_clean(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON may hold, and can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_too_long(text: str, most: int, name: str = "") -> str:
    """For validators: a text that may be so long and can be encoded; a model has to name it."""
    if len(text) > most:
        raise rest(f"{name} has {len(text)} characters, but may have {most}".lstrip(), TooLarge)
    if not is_clean(text):
        words = f"{name} is {shown(text)}, but must be a text without half a surrogate pair"
        raise rest(words.lstrip())
    return text


@dataclass(frozen=True)
class Filled:
    """In the annotation of a list: it has members, and not too many of them.

    The members say themselves what they may be. Without a name of the `members`, `words` are the
    error for too many.
    """

    words: str
    members: str
    most: int
    least: int = 1

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def check(value: object) -> object:
            if not isinstance(value, list) or len(value) < self.least:
                raise may_be(self.words)
            if len(value) > self.most:
                if not self.members:
                    raise may_be(self.words)
                raise rest(
                    f"has {len(value)} {self.members}, but may have {self.most} {self.members}"
                )
            return value

        return core_schema.no_info_before_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        least = {"minItems": self.least} if self.least else {}
        return {**handler(schema), **least, "maxItems": self.most}


def or_null(may: May) -> May:
    """The same, or null, where null is a value; elsewhere it is the same as missing."""
    assert may.schema is not None
    return May(may.words, core_schema.nullable_schema(may.schema))


# One of the texts of a `Literal`.
CHOICE = May("")


def choice(*texts: str) -> May:
    """One of a few texts."""
    chosen = core_schema.literal_schema(list(texts))
    return May(one_of(*texts), chosen, {"enum": list(texts)})


# For a type whose parts say what they may be: null is a value of it, and not a missing one.
OR_NULL = May("", tells=True)
Flag: TypeAlias = Annotated[bool, May("true or false")]


def may_be(words: str) -> PydanticCustomError:
    """For validators: what a value may be in words."""
    return PydanticCustomError(_MAY_BE, _MAY_BE, {"words": words})


def told(tell: Callable[[str, Any], WorkerError], more: int = 0) -> PydanticCustomError:
    """For validators: an error that is made of the whole name of the field, and its value.

    It stands for so many `more` errors of the same object.
    """
    return PydanticCustomError(_TOLD, _TOLD, {"tell": tell, "more": more})


def rest(words: str, kind: type[BadInput] = BadInput) -> PydanticCustomError:
    """For validators: the name of the field and these words are the sentence."""
    return told(lambda field, _: kind(f"{field} {words}".lstrip()))


def attempt(make: Callable[[str], T]) -> T:
    """For validators: what a function makes. It gets its whole name, for its BadInput."""
    try:
        return make("")
    except BadInput:
        # The name is known once the whole is read: the error is made again with it then.
        raise told(lambda name, _: _error_of(make, name)) from None


def _error_of(make: Callable[[str], object], name: str) -> BadInput:
    try:
        make(name)
    except BadInput as error:
        return error
    raise AssertionError(f"{name} is wrong only without its name")


def made_of(make: Callable[[Any, str], object], described: JsonSchema, words: str = "") -> May:
    """What a function makes of a value and its whole name, which its BadInput needs."""
    schema = core_schema.no_info_plain_validator_function(
        lambda value: attempt(lambda name: make(value, name))
    )
    return May(words, schema, described, tells=True)


def at(key: str, error: PydanticCustomError, value: object) -> ValidationError:
    """For validators of objects: the error of the value under one of its keys."""
    wrong = InitErrorDetails(type=error, loc=(key,), input=value)
    return ValidationError.from_exception_data(key, [wrong])


@dataclass(frozen=True)
class Picked:
    """In the annotation of a union: a function that says which of them a value is to be."""

    pick: Callable[[Any], "type[Values] | TypeAdapter[Any]"]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def check(value: object, info: ValidationInfo) -> object:
            return _validate(self.pick(value), value, info.context)

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
            else _with_null(each)
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


def whole_of(model: type[Values]) -> JsonSchema:
    """The JSON Schema of a model as a worker sends it: every option, and null only as a value."""
    found = described(model)
    for name, field in options_of(model).items():
        if not may_be_null(field):
            found["properties"][name] = without_null(found["properties"][name])
    return {**found, "required": list(options_of(model)), "additionalProperties": False}


def without_null(schema: JsonSchema) -> JsonSchema:
    """The schema of what may be left out, where null does not mean that."""
    told = dict(schema)
    if isinstance(told.get("type"), list):
        (told["type"],) = [kind for kind in told["type"] if kind != "null"]
    if "enum" in told:
        told["enum"] = [value for value in told["enum"] if value is not None]
    if "anyOf" in told:
        told["anyOf"] = [each for each in told["anyOf"] if each != _NULL]
    return told


def _with_null(schema: JsonSchema) -> JsonSchema:
    """The schema of what may be left out: null says the same."""
    if "const" in schema:
        others = {key: value for key, value in schema.items() if key != "const"}
        schema = {**others, "enum": [schema["const"]]}
    if "enum" in schema:
        kinds = {key: value for key, value in schema.items() if key != "type"}
        return {**kinds, "enum": [*schema["enum"], *([] if None in schema["enum"] else [None])]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" not in schema:
        kept = {key: schema[key] for key in schema if key in ("default", "description")}
        return {"anyOf": [{k: v for k, v in schema.items() if k not in kept}, _NULL], **kept}
    forms = [each for each in schema["anyOf"] if each != _NULL]
    if len(forms) == 1 and (forms[0].keys() & {"type", "enum"}):
        rest_of = {key: value for key, value in schema.items() if key != "anyOf"}
        return _with_null({**rest_of, **forms[0]})
    return {**schema, "anyOf": [*forms, _NULL]}


_NULL: JsonSchema = {"type": "null"}


def _again(error: Any) -> InitErrorDetails:
    kind = PydanticCustomError(error["type"], _MAY_BE, error.get("ctx"))
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"])


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field; the caller gets the `error`."""

    field: str
    error: WorkerError
    # Whether its value is not one that it may have.
    is_value: bool = False


def _validate(kind: type[T] | TypeAdapter[T], value: object, context: object) -> T:
    if isinstance(kind, TypeAdapter):
        return kind.validate_python(value, context=context)
    assert issubclass(kind, Values)
    return kind.model_validate(value, context=context)


def read(
    kind: type[T] | TypeAdapter[T],
    value: object,
    before: str = "",
    *,
    at: Place = (),
    known: Any = None,
    refuse: Callable[[Iterator[Problem], int], WorkerError] | None = None,
) -> T:
    """A caller's value as a model. Raises BadInput, of the kind that the first bad field asks for.

    The error's sentence begins with `before`. `at` is where the value stands. `known` is what its
    validators may ask. `refuse` makes another error of the problems and their number.
    """
    try:
        return _validate(kind, value, FromCaller(known))
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    # There may be thousands. Few are named, and only those need a sentence.
    problems = (_problem(each, at) for each in wrong)
    if refuse is not None:
        raise refuse(problems, sum(1 + each.get("ctx", {}).get("more", 0) for each in wrong))
    found = list(problems)
    if isinstance(value, dict):
        # In the order in which the caller wrote them.
        places = {key: place for place, key in enumerate(value)}
        found.sort(
            key=lambda problem: places.get(re.split(r"[.\[]", problem.field)[0], len(places))
        )
    told = [problem.error.message for problem in found[:MAX_TOLD]]
    raise found[0].error.saying(before + "; ".join(told)) from None


def is_good(kind: TypeAdapter[Any], value: object) -> bool:
    """Whether a caller's value is one of these."""
    try:
        kind.validate_python(value, context=FromCaller())
    except ValidationError:
        return False
    return True


def _problem(wrong: Any, at: Place) -> Problem:
    field, value = _path((*at, *wrong["loc"])), wrong["input"]
    match wrong["type"]:
        case kind if kind == _TOLD:
            return Problem(field, wrong["ctx"]["tell"](field, value))
        case kind if kind == _MAY_BE:
            return Problem(field, _wrong(field, value, wrong["ctx"]["words"]), is_value=True)
        case "missing":
            return Problem(field, BadInput(f"{field} is missing"))
    # No model should let it come to this: its fields have words of their own.
    return Problem(field, BadInput(f"{field} is {shown(value)}, which cannot be used"))


def _wrong(field: str, value: object, words: str) -> BadInput:
    return BadInput(f"{field or 'it'} is {shown(value)}, but must be {words}")


def _path(loc: Place) -> str:
    """A place as callers name it: `messages[0].content`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")


# As callers read it.


class _Described(GenerateJsonSchema):
    def field_title_should_be_set(self, _: Any) -> bool:
        return False


def described(model: type[Values]) -> JsonSchema:
    """The JSON Schema of a model, in which null is what it is to `read`."""
    return model.model_json_schema(schema_generator=_Described)


def components(*models: type[Values]) -> dict[str, JsonSchema]:
    """The JSON Schemas of models, and of those within them, by name, as parts of OpenAPI."""
    where = "#/components/schemas/{model}"
    _, found = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=where,
        schema_generator=_Described,
    )
    return dict(found["$defs"])
