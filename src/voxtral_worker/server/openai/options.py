"""Reads OpenAI's parameters one by one; what is asked for and not offered is an error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from voxtral_worker.errors import shown
from voxtral_worker.server.openai.errors import BadOption, unsupported

T = TypeVar("T")

# Of a request's offenders so many are named.
MAX_TOLD = 12
# What is said of values that are not supported, where more can be said.
_OLD_TOOLS = "functions are offered as tools now, with tool_choice"
WHY_NOT = {
    "functions": _OLD_TOOLS,
    "function_call": _OLD_TOOLS,
    "background": "nothing is stored that could be asked for later",
    "modalities": 'answers of this call are texts: send ["text"]',
}


def wrong(param: str, value: object, allowed: str) -> BadOption:
    """The error that says what a parameter was and what it may be."""
    return BadOption(param, f"{param} is {shown(value)}, but must be {allowed}", "invalid_value")


def gathered(value: object, path: str, read: "Callable[[Options], T]") -> T:
    """What `read` makes of an object. Raises one BadOption that names all that is wrong with it.

    Its `param` and code are those of the first offender.
    """
    offenders: list[BadOption] = []
    made: list[T] = []
    try:
        made.append(read(Options.of(value, path, offenders)))
    except BadOption as error:
        offenders.append(error)
    if not offenders:
        return made[0]
    first, more = offenders[0], len(offenders) - MAX_TOLD
    told = "; ".join(error.message for error in offenders[:MAX_TOLD])
    together = BadOption(
        first.param, told + (f"; and {more} more" if more > 0 else ""), first.openai_code
    )
    together.http_status = first.http_status
    raise together


@dataclass(frozen=True)
class Options:
    """The keys of one JSON object; `path` is how errors name it.

    What is wrong is raised at once, or goes to `offenders` where there is such a list; whoever
    reads on then gets what stands for a key that is missing.
    """

    values: Mapping[str, Any]
    path: str = ""
    offenders: list[BadOption] | None = None

    @classmethod
    def of(cls, value: object, path: str, offenders: list[BadOption] | None = None) -> "Options":
        """Raises BadOption for what is no object."""
        if not isinstance(value, dict):
            raise wrong(path, value, "an object")
        return cls(value, path, offenders)

    def report(self, error: BadOption) -> None:
        """Something is wrong. Raises it, unless errors are gathered."""
        if self.offenders is None:
            raise error
        self.offenders.append(error)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """A BadOption raised within is reported."""
        try:
            yield
        except BadOption as error:
            self.report(error)

    def name(self, key: str) -> str:
        """How errors name a key."""
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str) -> Any:
        """The value; null and missing are one."""
        return self.values.get(key)

    def only(
        self,
        known: tuple[str, ...],
        *,
        harmless: Mapping[str, tuple[object, ...]] | None = None,
        unsupported_keys: tuple[str, ...] = (),
    ) -> None:
        """Raises BadOption for a key that is not known, or is known and not supported.

        Null is the same as missing, whatever the key. Of `harmless` keys the listed values ask
        for what happens anyway. The error names all offenders; its `param` is the first.
        """
        offenders: list[BadOption] = []
        for key, value in self.values.items():
            if key in known or value is None:
                continue
            if harmless is not None and key in harmless:
                if not any(_same(value, good) for good in harmless[key]):
                    name = self.name(key)
                    told = f"{name} is {shown(value)}, which is not supported"
                    if key in WHY_NOT:
                        told = f"{name} is {shown(value)}, but {WHY_NOT[key]}"
                    offenders.append(unsupported(name, told))
            elif key not in unsupported_keys:
                name = self.name(shown(key)[1:-1])
                told = f"there is no parameter {name}"
                offenders.append(BadOption(name, told, "unknown_parameter"))
            else:
                offenders.append(unsupported(self.name(key)))
        if self.offenders is not None:
            self.offenders.extend(offenders)
        elif offenders:
            first = offenders[0]
            told = "; ".join(error.message for error in offenders)
            raise BadOption(first.param, told, first.openai_code)

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number in a range, or None. Raises BadOption."""
        value = self.get(key)
        if value is not None and not (_is_number(value) and low <= value <= high):
            self.report(wrong(self.name(key), value, f"a number from {low:g} to {high:g}"))
            return None
        return None if value is None else float(value)

    def whole(self, key: str, low: int, high: int) -> int | None:
        """A whole number in a range, or None. Raises BadOption."""
        value = self.get(key)
        if value is not None and not (_is_whole(value) and low <= value <= high):
            self.report(wrong(self.name(key), value, f"a whole number from {low} to {high}"))
            return None
        return None if value is None else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false. Raises BadOption."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self.report(wrong(self.name(key), value, "true or false"))
            return default
        return default if value is None else value

    def text(self, key: str, most: int) -> str | None:
        """A text, or None. Raises BadOption."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not _is_clean(value):
            self.report(wrong(self.name(key), value, "a text"))
            return None
        if len(value) > most:
            name = self.name(key)
            told = f"{name} has {len(value)} characters, but may have {most}"
            self.report(BadOption(name, told, "string_above_max_length"))
            return None
        return value

    def one_of(self, key: str, *choices: str) -> str | None:
        """One of a few texts, or None. Raises BadOption."""
        value = self.get(key)
        if value is not None and value not in choices:
            self.report(wrong(self.name(key), value, "one of " + ", ".join(choices)))
            return None
        return None if value is None else str(value)

    def inner(self, key: str) -> "Options | None":
        """An object under a key, or None. Raises BadOption."""
        value = self.get(key)
        if value is None:
            return None
        with self.reporting():
            return Options.of(value, self.name(key), self.offenders)
        return None


def _same(value: object, good: object) -> bool:
    if _is_number(value) and _is_number(good):
        return value == good
    return type(value) is type(good) and value == good


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_clean(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, so that it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
