"""The options of a session: what each may be, and what it is unless told otherwise."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from voxtral_worker.errors import BadInput

MAX_TEXT_CHARACTERS = 32_768

# ISO 639-1, all two-letter codes.
LANGUAGES = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy "
    "da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu "
    "hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb "
    "lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om "
    "or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw "
    "ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu".split()
)


@dataclass(frozen=True)
class Option:
    """One key: whether a value is good, and in words what would be."""

    is_good: Callable[[Any], bool]
    allowed: str


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_clean_text(value: object) -> bool:
    """Whether a JSON value is a text without lone surrogates, so that it can be encoded."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _number(low: float, high: float) -> Option:
    return Option(lambda v: is_number(v) and low <= v <= high, f"a number from {low} to {high}")


def _whole(low: int, high: int) -> Option:
    return Option(
        lambda v: is_whole(v) and low <= v <= high, f"a whole number from {low} to {high}"
    )


def _one_of(*choices: str) -> Option:
    return Option(lambda v: isinstance(v, str) and v in choices, "one of " + ", ".join(choices))


_BOOL = Option(lambda v: isinstance(v, bool), "true or false")
_LANGUAGE = Option(
    lambda v: v is None or (isinstance(v, str) and v in LANGUAGES), "an ISO 639-1 code or null"
)
_SYSTEM_PROMPT = Option(
    lambda v: v is None or (is_clean_text(v) and len(v) <= MAX_TEXT_CHARACTERS),
    f"a text of at most {MAX_TEXT_CHARACTERS} characters or null",
)

OPTIONS: dict[str, Option] = {
    "vad_sensitivity": _whole(0, 3),
    "temperature": _number(0, 2),
    "max_length": _whole(1, 4096),
    "top_p": _number(0, 1),
    "mode": _one_of("chat", "transcribe"),
    "language": _LANGUAGE,
    "system_prompt": _SYSTEM_PROMPT,
    "silence_ms": _whole(100, 3000),
    "sample_rate": _whole(8000, 48000),
    "encoding": _one_of("pcm_s16le", "opus", "mulaw", "alaw"),
    "stream": _BOOL,
    "interim": _BOOL,
    "barge_in": _BOOL,
}


@dataclass(frozen=True)
class SessionConfig:
    """The config in force. `given` names the keys that a caller has set."""

    vad_sensitivity: int = 2
    temperature: float = 0.2
    max_length: int = 256
    top_p: float = 0.95
    mode: str = "chat"
    language: str | None = None
    system_prompt: str | None = None
    silence_ms: int = 500
    sample_rate: int = 16_000
    encoding: str = "pcm_s16le"
    stream: bool = True
    interim: bool = False
    barge_in: bool = True
    # What only other dialects than the documented one set.
    threshold: float | None = None
    pre_roll_ms: int = 320
    answers_turns: bool = True
    given: frozenset[str] = field(default=frozenset(), repr=False)

    def updated(self, changes: object) -> "SessionConfig":
        """This config with changes, all of them or none.

        Raises BadInput that names the first key that is unknown or has a bad value.
        """
        if not isinstance(changes, dict):
            raise BadInput("config must be an object of options")
        for key, value in changes.items():
            option = OPTIONS.get(key)
            if option is None:
                raise BadInput(f"config has no option {_shown(key)}; it has {', '.join(OPTIONS)}")
            if not option.is_good(value):
                raise BadInput(f"config {key} is {_shown(value)}, but must be {option.allowed}")
        return dataclasses.replace(self, **changes, given=self.given | changes.keys())

    def as_dict(self) -> dict[str, Any]:
        """All options as a caller sees them."""
        return {key: getattr(self, key) for key in OPTIONS}


def _shown(value: object) -> str:
    try:
        text = ascii(value)
    except RecursionError:
        return "nested too deep"
    return text if len(text) <= 60 else text[:57] + "..."
