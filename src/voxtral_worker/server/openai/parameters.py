"""What OpenAI's calls may say, as models.

A model has a field for each key that is taken, and `extras` for other keys that are known:

    class SpeechBody(Parameters):
        extras = {
            **keys(ignored, "user metadata"),
            **keys(unsupported_key(), "audio"),
            "logprobs": harmless(False),
        }
        model: Any = None
        input: Annotated[str, text(4096)]
        speed: Annotated[float, number(0.25, 4.0)] = 1.0

Any other key is an error. Null is the same as missing, whatever the key. A field without a default
is needed; where it is missing, its `May` says what it may be. `clashes` says which fields do not
go together.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from voxtral_worker.errors import BadInput, shown
from voxtral_worker.server.openai.errors import BadOption, unsupported, within
from voxtral_worker.values import (
    JsonSchema,
    May,
    Place,
    Problem,
    Values,
    is_clean,
    made_of,
    may_be,
    read,
    told,
)

T = TypeVar("T")
# What an unknown key comes to, by its name and its value: an error, or nothing.
Extra: TypeAlias = Callable[[str, object], BadOption | None]

# Of a request's offenders so many are named.
MAX_TOLD = 12
# The longest limit of a text that is described.
MAX_DESCRIBED = 32_768


def ignored(_: str, __: object) -> None:
    """A note or a wish of the caller's, which changes nothing."""


def harmless(*values: object, words: str = "{name} is {value}, which is not supported") -> Extra:
    """A key of which these values ask for what happens anyway; others are not supported."""

    def check(name: str, value: object) -> BadOption | None:
        if any(_same(value, good) for good in values):
            return None
        return unsupported(name, words.format(name=name, value=shown(value)))

    return check


def unsupported_key(words: str = "{name} is not supported by this worker") -> Extra:
    """A key of OpenAI's that this worker does not have."""
    return harmless(words=words)


def keys(extra: Extra, *names: str) -> dict[str, Extra]:
    """The same for several keys; one text may name several, with spaces between them."""
    return dict.fromkeys(" ".join(names).split(), extra)


def _same(value: object, good: object) -> bool:
    """Whether JSON values are equal; true and false are not numbers."""
    return value == good and isinstance(value, bool) == isinstance(good, bool)


class Parameters(Values):
    """Abstract: an object of OpenAI's API, frozen once it is read."""

    extras: ClassVar[Mapping[str, Extra]] = {}

    @classmethod
    def unknown(cls, given: dict[str, Any]) -> list[PydanticCustomError]:
        """See Values."""
        checks = [(key, value, cls.extras.get(key, _unknown)) for key, value in given.items()]
        wrong = [each for each in checks if each[2](each[0], each[1]) is not None]
        # The library would make an object of each: the first one says how many it leaves out.
        more = max(0, len(wrong) - MAX_TOLD)
        return [
            told(_of_object(*each, more if at == 0 else 0))
            for at, each in enumerate(wrong[:MAX_TOLD])
        ]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = super().__get_pydantic_json_schema__(schema, handler)
        # Extras are not described, and may be sent.
        if cls.extras:
            found.pop("additionalProperties", None)
        return found


def _unknown(name: str, _: object) -> BadOption:
    return BadOption(name, f"there is no parameter {name}", "unknown_parameter")


def _of_object(key: str, value: object, check: Extra, more: int) -> Callable[[str, Any], BadOption]:
    """The error of a key, once the name of its object is known."""

    def tell(path: str, _: Any) -> BadOption:
        # A key may be any text.
        error = check(_within(path, shown(key)[1:-1]), value)
        assert error is not None
        error.more = more
        return error

    return tell


def _within(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def clash(key: str, sentence: str, code: str | None = None) -> PydanticCustomError:
    """For `clashes`: an error of one of the fields that do not go together."""
    return told(lambda path, _: BadOption(_within(path, key), sentence, code))


def option(words: str, code: str | None = None) -> PydanticCustomError:
    """For validators: the name of the parameter and these words are the sentence."""
    return told(lambda name, _: BadOption(name, f"{name} {words}", code))


def not_offered(words: str) -> PydanticCustomError:
    """For validators: a value that this worker does not have; `words` say what it may be."""
    return told(lambda name, value: unsupported(name, f"{name} is {shown(value)}, but {words}"))


def anything(described: JsonSchema) -> May:
    """Any JSON, which is checked elsewhere, or not at all."""
    return May("", core_schema.any_schema(), described, tells=True)


def text(most: int) -> May:
    """A text of at most so many characters that can be encoded."""
    # Who tries all that a description allows would send bodies of many MiB.
    limit = {"maxLength": most} if most <= MAX_DESCRIBED else {}
    described = {"type": "string", **limit}
    return made_of(lambda value, _: checked_text(value, most), described)


def checked_text(value: object, most: int) -> str:
    """For validators: such a text."""
    if not isinstance(value, str) or not is_clean(value):
        raise may_be("a text")
    if len(value) > most:
        raise option(f"has {len(value)} characters, but may have {most}", "string_above_max_length")
    return value


def read_parameters(
    kind: type[T] | TypeAdapter[T], value: object, at: Place = (), *, known: Any = None
) -> T:
    """A caller's object as a model; errors name it by the place where it stands.

    `known` is what validators may ask. Raises one BadOption that names all that is wrong; its
    param, code and status are those of the first offender.
    """
    return read(kind, value, at=at, known=known, refuse=_together)


def _together(problems: list[Problem]) -> BadOption:
    offenders = [_offender(problem) for problem in problems[:MAX_TOLD]]
    more = len(problems) - len(offenders)
    more += sum(getattr(problem.error, "more", 0) for problem in problems)
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
