"""What OpenAI's calls may say, as models.

A model has a field for each key that it reads, and `extras` for the other keys of OpenAI's API:

    class SpeechBody(Parameters):
        extras = {
            **keys(ignored, "user metadata"),
            **keys(unsupported_key(), "audio"),
            "logprobs": harmless(False),
        }
        model: Any = None
        input: Annotated[str, text(4096)]
        speed: Annotated[float, number(0.25, 4.0)] = 1.0

Any other key is an error. A key that is null counts as missing. A field without a default is
required; if it is missing, the error says what it may be. `clashes` returns the errors of fields
that exclude each other. `read_parameters` reads a model.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from voxtral_worker.errors import BadInput, shown
from voxtral_worker.server.openai.errors import BadOption, unsupported, within
from voxtral_worker.values.may import JsonSchema, May, is_clean, made_of, may_be, told
from voxtral_worker.values.model import Values
from voxtral_worker.values.reading import Place, Problem, read

T = TypeVar("T")
# Takes the name and the value of a key that is not a field; returns an error, or None.
Extra: TypeAlias = Callable[[str, object], BadOption | None]

# How many errors one message names.
MAX_TOLD = 12
# A longer limit of a text is not described.
MAX_DESCRIBED = 32_768


def ignored(_: str, __: object) -> None:
    """A key that is accepted and has no effect."""


def harmless(*values: object, words: str = "{name} is {value}, which is not supported") -> Extra:
    """A key with values that ask for what the worker does anyway; others are not supported."""

    def check(name: str, value: object) -> BadOption | None:
        if any(_same(value, good) for good in values):
            return None
        return unsupported(name, words.format(name=name, value=shown(value)))

    return check


def unsupported_key(words: str = "{name} is not supported by this worker") -> Extra:
    """A key of OpenAI's API that this worker does not support."""
    return harmless(words=words)


def keys(extra: Extra, *names: str) -> dict[str, Extra]:
    """The same for several keys; spaces separate names within a string."""
    return dict.fromkeys(" ".join(names).split(), extra)


def _same(value: object, good: object) -> bool:
    """Whether JSON values are equal. In Python True equals 1, in JSON it does not."""
    return value == good and isinstance(value, bool) == isinstance(good, bool)


class Parameters(Values):
    """Abstract: an object of OpenAI's API, frozen once it is read."""

    extras: ClassVar[Mapping[str, Extra]] = {}

    @classmethod
    def unknown(cls, given: dict[str, Any]) -> list[PydanticCustomError]:
        """See Values."""
        extras = cls.extras
        wrong = [
            (key, value, extras.get(key, _unknown))
            for key, value in given.items()
            if key not in extras or extras[key](key, value) is not None
        ]
        # A body may have 250,000 unknown keys. Make few errors, and count the others in the first.
        more = max(0, len(wrong) - MAX_TOLD)
        return [
            told(_of_object(*each), more if at == 0 else 0)
            for at, each in enumerate(wrong[:MAX_TOLD])
        ]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = super().__get_pydantic_json_schema__(schema, handler)
        # A schema that allows only its properties would forbid the extras.
        if cls.extras:
            found.pop("additionalProperties", None)
        return found


def _unknown(name: str, _: object) -> BadOption:
    return BadOption(name, f"there is no parameter {name}", "unknown_parameter")


def _of_object(key: str, value: object, check: Extra) -> Callable[[str, Any], BadOption]:
    """Returns a function from the name of the object to the error of its key."""

    def tell(path: str, _: Any) -> BadOption:
        # A key may be any string, also an unprintable one.
        error = check(_within(path, shown(key)[1:-1]), value)
        assert error is not None
        return error

    return tell


def _within(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def clash(key: str, sentence: str, code: str | None = None) -> PydanticCustomError:
    """For `clashes`: the error of one of the fields."""
    return told(lambda path, _: BadOption(_within(path, key), sentence, code))


def option(words: str, code: str | None = None) -> PydanticCustomError:
    """For validators: an error whose sentence is the name of the parameter and these words."""
    return told(lambda name, _: BadOption(name, f"{name} {words}", code))


def not_offered(words: str) -> PydanticCustomError:
    """For validators: the error of an unsupported value; `words` say what it may be."""
    return told(lambda name, value: unsupported(name, f"{name} is {shown(value)}, but {words}"))


def anything(described: JsonSchema) -> May:
    """Any JSON value: it is checked elsewhere, or not at all."""
    return May("", core_schema.any_schema(), described, tells=True)


def text(most: int) -> May:
    """A string of at most so many characters that can be encoded."""
    # Tools that test all limits of a description would send bodies of many MiB.
    limit = {"maxLength": most} if most <= MAX_DESCRIBED else {}
    described = {"type": "string", **limit}
    return made_of(lambda value, _: checked_text(value, most), described)


def checked_text(value: object, most: int) -> str:
    """For validators: the same check."""
    if not isinstance(value, str) or not is_clean(value):
        raise may_be("a text")
    if len(value) > most:
        raise option(f"has {len(value)} characters, but may have {most}", "string_above_max_length")
    return value


def read_parameters(
    kind: type[T] | TypeAdapter[T], value: object, at: Place = (), *, known: Any = None
) -> T:
    """Read a caller's object as a model. `at` is its place in the request, for errors.

    Validators get `known` (see `known_of`). Raises one BadOption that names all that is wrong; its
    param, code and status are those of the first error.
    """
    return read(kind, value, at=at, known=known, refuse=_together)


def _together(problems: Iterator[Problem], count: int) -> BadOption:
    offenders = [_offender(problem) for problem in itertools.islice(problems, MAX_TOLD)]
    more = count - len(offenders)
    sentences = "; ".join(error.message for error in offenders)
    first = offenders[0]
    together = BadOption(
        first.param, sentences + (f"; and {more} more" if more else ""), first.openai_code
    )
    together.http_status = first.http_status
    return together


def _offender(problem: Problem) -> BadOption:
    error = problem.error
    assert isinstance(error, BadInput)
    if problem.is_value:
        return BadOption(problem.field, error.message, "invalid_value")
    return within(problem.field, error)
