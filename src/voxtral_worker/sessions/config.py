"""The options of a session: what each may be, and what it is unless told otherwise."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from voxtral_worker.engine.stops import MAX_STOP_CHARACTERS, MAX_STOPS
from voxtral_worker.engine.tool_options import CHOICES, MAX_TOOLS, NAME, read_tools
from voxtral_worker.engine.tools import Tool, Toolbox
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.speech.pieces import ENCODINGS, MAX_VOICE_CHARACTERS
from voxtral_worker.turns.detector import Waits

MAX_TEXT_CHARACTERS = 32_768
MAX_TOOL_TIMEOUT_MS = 60_000
# Bad keys that one error names.
MAX_TOLD = 8
MOST_SEED = 2**63 - 1

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
    # How a good value is kept.
    kept: Callable[[Any], Any] = lambda value: value
    # What is wrong with a value, where that is more than its kind.
    why_not: Callable[[Any], str | None] = lambda value: None


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a JSON value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_clean_text(value: object) -> bool:
    """Whether a JSON value is a text without lone surrogates, so that it can be encoded."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_good_stop(value: object) -> bool:
    """Whether a JSON value names texts that may end an answer."""
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and len(texts) <= MAX_STOPS
        and all(is_clean_text(text) and 0 < len(text) <= MAX_STOP_CHARACTERS for text in texts)
    )


def stop_texts(value: str | list[str]) -> tuple[str, ...]:
    """The texts that a good value names."""
    return (value,) if isinstance(value, str) else tuple(value)


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
_SEED = Option(
    lambda v: v is None or (is_whole(v) and abs(v) <= MOST_SEED), "a whole number or null"
)
_STOP = Option(
    is_good_stop,
    f"a text, or a list of at most {MAX_STOPS} texts, of 1 to {MAX_STOP_CHARACTERS} characters",
    stop_texts,
)
_VOICE = Option(
    lambda v: v is None or (is_clean_text(v) and 0 < len(v) <= MAX_VOICE_CHARACTERS),
    f"the name of a voice, of at most {MAX_VOICE_CHARACTERS} characters, or null",
)
_SYSTEM_PROMPT = Option(
    lambda v: v is None or (is_clean_text(v) and len(v) <= MAX_TEXT_CHARACTERS),
    f"a text of at most {MAX_TEXT_CHARACTERS} characters or null",
)


def _why_no_tools(value: object) -> str | None:
    try:
        read_tools(value, "tools")
    except BadInput as error:
        return error.message
    return None


def _is_good_choice(value: object) -> bool:
    return value in CHOICES or (isinstance(value, dict) and _name_of(value) is not None)


def _name_of(choice: Any) -> str | None:
    """The name in a choice of one tool, in the worker's shape or in OpenAI's."""
    inner = choice.get("function")
    name = inner.get("name") if isinstance(inner, dict) else choice.get("name")
    return name if isinstance(name, str) and NAME.fullmatch(name) else None


_TOOLS = Option(
    lambda v: _why_no_tools(v) is None,
    f"a list of at most {MAX_TOOLS} tools",
    lambda v: read_tools(v, "tools"),
    _why_no_tools,
)
_TOOL_CHOICE = Option(
    _is_good_choice,
    f'{", ".join(CHOICES)}, or {{"name": "..."}} of one of the tools',
    lambda v: v if isinstance(v, str) else _name_of(v),
)

OPTIONS: dict[str, Option] = {
    "vad_sensitivity": _whole(0, 3),
    "temperature": _number(0, 2),
    "max_length": _whole(1, 4096),
    "top_p": _number(0, 1),
    "stop": _STOP,
    "seed": _SEED,
    "mode": _one_of("chat", "transcribe"),
    "language": _LANGUAGE,
    "system_prompt": _SYSTEM_PROMPT,
    "silence_ms": _whole(100, 3000),
    "sample_rate": _whole(8000, 48000),
    "encoding": _one_of("pcm_s16le", "opus", "mulaw", "alaw"),
    "stream": _BOOL,
    "interim": _BOOL,
    "barge_in": _BOOL,
    "barge_in_ms": _whole(0, 2000),
    "turn_detection": _one_of("silence", "semantic"),
    "eagerness": _one_of("low", "medium", "high", "auto"),
    "reopen_ms": _whole(0, 2000),
    "transcript": _BOOL,
    "voice": _VOICE,
    "output_sample_rate": _whole(8000, 48000),
    "output_encoding": _one_of(*ENCODINGS),
    "tools": _TOOLS,
    "tool_choice": _TOOL_CHOICE,
    "parallel_tool_calls": _BOOL,
    "tool_timeout_ms": _whole(0, MAX_TOOL_TIMEOUT_MS),
}
# Within which time a turn goes on unless told otherwise.
REOPEN_MS = 800
EAGER_REOPEN_MS = 1000


@dataclass(frozen=True)
class SessionConfig:
    """The config in force. `given` names the keys that a caller has set."""

    vad_sensitivity: int = 2
    temperature: float = 0.2
    max_length: int = 256
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None
    mode: str = "chat"
    language: str | None = None
    system_prompt: str | None = None
    silence_ms: int = 500
    sample_rate: int = 16_000
    encoding: str = "pcm_s16le"
    stream: bool = True
    interim: bool = False
    barge_in: bool = True
    barge_in_ms: int = 0
    turn_detection: str = "silence"
    eagerness: str = "auto"
    # None: what suits the other options, see `reopens_within_ms`.
    reopen_ms: int | None = None
    transcript: bool = False
    voice: str | None = None
    output_sample_rate: int = 24_000
    output_encoding: str = "pcm_s16le"
    tools: tuple[Tool, ...] = ()
    # auto, none or required; any other text is the name of the one tool that is called.
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    tool_timeout_ms: int = 10_000
    # What only other dialects than the documented one set.
    threshold: float | None = None
    pre_roll_ms: int = 320
    answers_turns: bool = True
    # Whether a turn goes on by itself once the tools that it called have answered.
    runs_rounds: bool = True
    speech_speed: float = 1.0
    given: frozenset[str] = field(default=frozenset(), repr=False)

    def updated(self, changes: object) -> "SessionConfig":
        """This config with changes, all of them or none.

        Null changes nothing, but for a key that may be null. Raises BadInput that names the
        keys that are unknown or have bad values.
        """
        if not isinstance(changes, dict):
            raise BadInput("config must be an object of options")
        given = {key: value for key, value in changes.items() if not _is_missing(key, value)}
        if wrong := [told for key, value in given.items() if (told := _wrong(key, value))]:
            raise BadInput("config " + "; ".join(wrong[:MAX_TOLD]))
        taken = {key: OPTIONS[key].kept(value) for key, value in given.items()}
        changed = dataclasses.replace(self, **taken, given=self.given | given.keys())
        if given.keys() & {"tools", "tool_choice"}:
            changed.require_choice()
        return changed

    def require_choice(self) -> None:
        """Raises BadInput for a choice that the tools do not offer."""
        names = [tool.name for tool in self.tools]
        if self.tool_choice == "required" and not names:
            raise BadInput("config tool_choice is 'required', but there are no tools")
        if self.tool_choice not in (*CHOICES, *names):
            raise BadInput(
                f"config tool_choice names {self.tool_choice!r}, but there is no such tool"
            )

    @property
    def toolbox(self) -> Toolbox:
        """What is offered in a response."""
        for choice in CHOICES:
            if self.tool_choice == choice:
                return Toolbox(self.tools, choice, None, self.parallel_tool_calls)
        return Toolbox(self.tools, "auto", self.tool_choice, self.parallel_tool_calls)

    @property
    def reopens_within_ms(self) -> int:
        """How long after its end a turn goes on when its speaker does; 0: never.

        Who dictates wants each sentence as it is said. Who wants turns to end eagerly has more of
        them to mend.
        """
        if self.reopen_ms is not None:
            return self.reopen_ms
        if self.mode == "transcribe":
            return 0
        is_eager = self.turn_detection == "semantic" and self.eagerness == "high"
        return EAGER_REOPEN_MS if is_eager else REOPEN_MS

    @property
    def waits(self) -> Waits | None:
        """How long a pause is waited for by its score; None: by `silence_ms` alone.

        Where the model may call a tool, no turn ends before `silence_ms`: words that were said too
        early can be taken back, what a tool has done cannot.
        """
        if self.turn_detection != "semantic":
            return None
        eagerness = "medium" if self.eagerness == "auto" else self.eagerness
        waits = Waits.of(eagerness, self.silence_ms)
        may_act = bool(self.tools) and self.tool_choice != "none"
        return waits.at_least(self.silence_ms) if may_act else waits

    def require_scorer(self, has_scorer: bool) -> None:
        """Raises BadInput for turn detection by scores where nobody gives any."""
        if self.turn_detection == "semantic" and not has_scorer:
            raise BadInput(
                "config turn_detection is 'semantic', but this worker has no turn model: set "
                "TURN_MODEL to its file, or use 'silence'"
            )

    def as_dict(self) -> dict[str, Any]:
        """All options as a caller sees them."""
        shown = {key: _as_json(getattr(self, key)) for key in OPTIONS}
        if self.tool_choice not in CHOICES:
            shown["tool_choice"] = {"name": self.tool_choice}
        return {**shown, "reopen_ms": self.reopens_within_ms}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(each) for each in value]
    return value.as_option() if isinstance(value, Tool) else value


def _is_missing(key: object, value: object) -> bool:
    option = OPTIONS.get(key) if isinstance(key, str) else None
    return value is None and not (option is not None and option.is_good(None))


def _wrong(key: str, value: object) -> str | None:
    option = OPTIONS.get(key)
    if option is None:
        return f"has no option {shown(key)}; it has {', '.join(OPTIONS)}"
    if option.is_good(value):
        return None
    return option.why_not(value) or f"{key} is {shown(value)}, but must be {option.allowed}"
