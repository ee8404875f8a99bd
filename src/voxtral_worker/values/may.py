"""What one value may be: the annotations of a field, and the errors of its validators."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from voxtral_worker.errors import BadInput, TooLarge, WorkerError, shown

T = TypeVar("T")
JsonSchema: TypeAlias = dict[str, Any]

# Kinds of errors: what a value may be; an error that is made of the field's name and its value.
MAY_BE, TOLD = "may_be", "told"


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
            MAY_BE,
            custom_error_message=MAY_BE,
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
    return PydanticCustomError(MAY_BE, MAY_BE, {"words": words})


def told(tell: Callable[[str, Any], WorkerError], more: int = 0) -> PydanticCustomError:
    """For validators: an error that is made of the whole name of the field, and its value.

    It stands for so many `more` errors of the same object.
    """
    return PydanticCustomError(TOLD, TOLD, {"tell": tell, "more": more})


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
