"""Reads OpenAI's parameters one by one; what is asked for and not offered is an error."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.sessions.config import is_clean_text, is_number, is_whole

_NOTHING: tuple[object, ...] = (None,)


def shown(value: object) -> str:
    """A value in a few plain words, however large it is."""
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "object"
        return f"{'an' if kind == 'object' else 'a'} {kind}" if value else f"an empty {kind}"
    if isinstance(value, str):
        return ascii(value) if len(value) <= 60 else ascii(value[:57]) + "..."
    if isinstance(value, int) and abs(value) > 10**15:
        return "a very large number"
    return json.dumps(value)


def wrong(param: str, value: object, allowed: str) -> BadOption:
    """The error that says what a parameter was and what it may be."""
    return BadOption(param, f"{param} is {shown(value)}, but must be {allowed}", "invalid_value")


@dataclass(frozen=True)
class Options:
    """The keys of one JSON object; `path` is how errors name it."""

    values: Mapping[str, Any]
    path: str = ""

    @classmethod
    def of(cls, value: object, path: str) -> "Options":
        """Raises BadOption for what is no object."""
        if not isinstance(value, dict):
            raise wrong(path, value, "an object")
        return cls(value, path)

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

        Of `harmless` keys the listed values ask for what happens anyway, as null does.
        """
        for key, value in self.values.items():
            if key in known:
                continue
            if harmless is not None and key in harmless:
                if not any(_same(value, good) for good in (*harmless[key], *_NOTHING)):
                    name = self.name(key)
                    raise unsupported(name, f"{name} is {shown(value)}, which is not supported")
            elif key not in unsupported_keys:
                name = self.name(shown(key)[1:-1])
                raise BadOption(name, f"there is no parameter {name}", "unknown_parameter")
            elif value is not None:
                raise unsupported(self.name(key))

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number in a range, or None. Raises BadOption."""
        value = self.get(key)
        if value is not None and not (is_number(value) and low <= value <= high):
            raise wrong(self.name(key), value, f"a number from {low:g} to {high:g}")
        return None if value is None else float(value)

    def whole(self, key: str, low: int, high: int) -> int | None:
        """A whole number in a range, or None. Raises BadOption."""
        value = self.get(key)
        if value is not None and not (is_whole(value) and low <= value <= high):
            raise wrong(self.name(key), value, f"a whole number from {low} to {high}")
        return None if value is None else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false. Raises BadOption."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise wrong(self.name(key), value, "true or false")
        return default if value is None else value

    def text(self, key: str, most: int) -> str | None:
        """A text, or None. Raises BadOption."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not is_clean_text(value):
            raise wrong(self.name(key), value, "a text")
        if len(value) > most:
            raise BadOption(
                self.name(key),
                f"{self.name(key)} has {len(value)} characters, but may have {most}",
                "string_above_max_length",
            )
        return value

    def one_of(self, key: str, *choices: str) -> str | None:
        """One of a few texts, or None. Raises BadOption."""
        value = self.get(key)
        if value is not None and value not in choices:
            raise wrong(self.name(key), value, "one of " + ", ".join(choices))
        return None if value is None else str(value)

    def inner(self, key: str) -> "Options | None":
        """An object under a key, or None. Raises BadOption."""
        value = self.get(key)
        return None if value is None else Options.of(value, self.name(key))


def _same(value: object, good: object) -> bool:
    if is_number(value) and is_number(good):
        return value == good
    return type(value) is type(good) and value == good
