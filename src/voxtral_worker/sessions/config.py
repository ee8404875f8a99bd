"""The options of a session: what each may be, and its default."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter
from pydantic_core import core_schema

from voxtral_worker.engine.stops import MAX_STOP_CHARACTERS, MAX_STOPS
from voxtral_worker.engine.tool_options import CHOICES, MAX_TOOLS, NAME, read_tools
from voxtral_worker.engine.tools import Tool, Toolbox
from voxtral_worker.errors import BadInput
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS, Encoding
from voxtral_worker.turns.endpoint import Waits
from voxtral_worker.values.may import CHOICE, Flag, May, clean_text, made_of, number, or_null, whole
from voxtral_worker.values.model import Values, options_of
from voxtral_worker.values.reading import read

Eagerness: TypeAlias = Literal["low", "medium", "high", "auto"]

MAX_TEXT_CHARACTERS = 32_768
MAX_TOOL_TIMEOUT_MS = 60_000
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


def _name_of(choice: Any) -> str | None:
    """The name in a choice of one tool, in the worker's shape or in OpenAI's."""
    inner = choice.get("function")
    name = inner.get("name") if isinstance(inner, dict) else choice.get("name")
    return name if isinstance(name, str) and NAME.fullmatch(name) else None


def _choice(value: object) -> str:
    if isinstance(value, str) and value in CHOICES:
        return value
    if isinstance(value, dict) and (name := _name_of(value)) is not None:
        return name
    raise ValueError


# How long after its end a turn may continue, by default.
REOPEN_MS = 800
EAGER_REOPEN_MS = 1000

_STOP_TEXT = core_schema.str_schema(min_length=1, max_length=MAX_STOP_CHARACTERS, strict=True)
STOP = May(
    f"a text, or a list of at most {MAX_STOPS} texts, of 1 to {MAX_STOP_CHARACTERS} characters",
    core_schema.no_info_after_validator_function(
        lambda value: (value,) if isinstance(value, str) else tuple(value),
        core_schema.union_schema(
            [_STOP_TEXT, core_schema.list_schema(_STOP_TEXT, max_length=MAX_STOPS, strict=False)]
        ),
    ),
)
SEED = May(
    "a whole number or null",
    core_schema.nullable_schema(core_schema.int_schema(ge=-MOST_SEED, le=MOST_SEED, strict=True)),
)
LANGUAGE = May("an ISO 639-1 code or null", core_schema.literal_schema([*sorted(LANGUAGES), None]))
TOOLS = made_of(
    lambda value, name: value if isinstance(value, tuple) else read_tools(value, name),
    {
        "type": "array",
        "maxItems": MAX_TOOLS,
        "items": {"type": "object", "description": "A function, nested or flat: docs/tools.md"},
    },
    f"a list of at most {MAX_TOOLS} tools",
)
_VOICE = or_null(
    clean_text(
        f"the name of a voice, of at most {MAX_VOICE_CHARACTERS} characters, or null",
        1,
        MAX_VOICE_CHARACTERS,
    )
)
_SYSTEM_PROMPT = or_null(
    clean_text(
        f"a text of at most {MAX_TEXT_CHARACTERS} characters or null", 0, MAX_TEXT_CHARACTERS
    )
)
TOOL_CHOICE = May(
    f'{", ".join(CHOICES)}, or {{"name": "..."}} of one of the tools',
    core_schema.no_info_plain_validator_function(_choice),
    {
        "anyOf": [
            {"enum": [*CHOICES]},
            {"type": "object", "description": "Names one of the tools"},
        ]
    },
)


class SessionConfig(Values):
    """The config in effect."""

    vad_sensitivity: Annotated[int, whole(0, 3)] = Field(
        default=2,
        description="How quiet speech may be: 0 hears only clear speech, 3 also quiet speech.",
    )
    temperature: Annotated[float, number(0, 2)] = Field(
        default=0.2, description="0 is greedy. Unless you set it, it is 0 in `mode: transcribe`."
    )
    max_length: Annotated[int, whole(1, 4096)] = Field(
        default=256,
        description="The limit of an answer in tokens. Unless you set it, a transcript may have "
        "512 for each 30 s of its turn.",
    )
    top_p: Annotated[float, number(0, 1)] = Field(
        default=0.95,
        description="The model chooses among the likeliest tokens, which together have this "
        "probability.",
    )
    stop: Annotated[tuple[str, ...], STOP] = Field(
        default=(), description="The answer ends where one of these texts would begin."
    )
    seed: Annotated[int | None, SEED] = Field(
        default=None,
        description="With the same seed, the same conversation gets the same answer, even if other "
        "requests run at the same time (best effort).",
    )
    mode: Annotated[Literal["chat", "transcribe"], CHOICE] = Field(
        default="chat", description="Whether turns are answered or transcribed."
    )
    language: Annotated[str | None, LANGUAGE] = Field(
        default=None, description="The language that `transcribe` expects."
    )
    system_prompt: Annotated[str | None, _SYSTEM_PROMPT] = Field(
        default=None,
        description="How the model is to answer. In a conversation with audio the worker puts it "
        "at the start of the first user turn, because the model accepts no system prompt there.",
    )
    silence_ms: Annotated[int, whole(100, 3000)] = Field(
        default=500, description="Silence that ends a turn."
    )
    sample_rate: Annotated[int, whole(8000, 48000)] = Field(
        default=16_000, description="Samples per second of the audio that you send."
    )
    encoding: Annotated[Encoding, CHOICE] = Field(
        default="pcm_s16le",
        description="The encoding of the audio that you send. `opus`: one packet per frame.",
    )
    stream: Flag = Field(default=True, description="Send `text_delta`.")
    interim: Flag = Field(default=False, description="Send `transcript_partial`.")
    barge_in: Flag = Field(
        default=True,
        description="Speech interrupts the response in progress. In `mode: transcribe` turns queue "
        "instead.",
    )
    barge_in_ms: Annotated[int, whole(0, 2000)] = Field(
        default=0,
        description='How much speech interrupts a response. Less speech, such as a "hmm", neither '
        "interrupts nor counts as a turn. 0: as soon as the worker is sure that it is speech "
        "(128 ms).",
    )
    turn_detection: Annotated[Literal["silence", "semantic"], CHOICE] = Field(
        default="silence",
        description="`silence` ends a turn by `silence_ms` alone; `semantic` also considers how "
        "complete the words sound.",
    )
    eagerness: Annotated[Eagerness, CHOICE] = Field(
        default="auto", description="How soon a turn ends with `semantic`; `auto` is `medium`."
    )
    # None: what suits the other options, see `reopens_within_ms`.
    reopen_ms: Annotated[int, whole(0, 2000)] | None = Field(
        default=None,
        description="Speech within this time after the end of a turn belongs to it; 0: none. "
        "Unless you set it, it is 0 in `mode: transcribe`, and 1000 with `semantic` and `high`.",
        json_schema_extra={"default": REOPEN_MS},
    )
    transcript: Flag = Field(default=False, description="Send `transcript`, in `mode: chat`.")
    voice: Annotated[str | None, _VOICE] = Field(
        default=None,
        description="The voice that speaks the answers, such as `default`. Null: answers are text.",
    )
    output_sample_rate: Annotated[int, whole(8000, 48000)] = Field(
        default=24_000, description="Samples per second of spoken answers."
    )
    output_encoding: Annotated[Encoding, CHOICE] = Field(
        default="pcm_s16le",
        description="The encoding of spoken answers. `opus`: one packet per frame, which is 48 kHz "
        "when decoded, whatever the rate.",
    )
    tools: Annotated[tuple[Tool, ...], TOOLS] = Field(
        default=(), description="The functions that the model may call."
    )
    # auto, none or required; any other text is the name of the one tool that is called.
    tool_choice: Annotated[str, TOOL_CHOICE] = Field(
        default="auto", description="Whether a tool is called, and which."
    )
    parallel_tool_calls: Flag = Field(
        default=True, description="The model may call several tools in one response."
    )
    tool_timeout_ms: Annotated[int, whole(0, MAX_TOOL_TIMEOUT_MS)] = Field(
        default=10_000,
        description="How long the worker waits for the results of tools; 0: as long as the session "
        "exists.",
    )
    # What only other dialects than the documented one set.
    threshold: float | None = Field(default=None, exclude=True)
    pre_roll_ms: int = Field(default=320, exclude=True)
    answers_turns: bool = Field(default=True, exclude=True)
    # Whether a turn continues by itself once the tools that it called have answered.
    runs_rounds: bool = Field(default=True, exclude=True)
    speech_speed: float = Field(default=1.0, exclude=True)

    @classmethod
    def no_such(cls, keys: list[str]) -> str:
        """See Values."""
        return f"has no option {', '.join(keys)}; it has {', '.join(OPTIONS)}"

    @property
    def given(self) -> set[str]:
        """The keys that a caller has set."""
        return self.model_fields_set

    def updated(self, changes: object, before: str = "config ") -> "SessionConfig":
        """This config with changes, all of them or none.

        Null changes nothing, but for a key that may be null. Raises BadInput that names the
        keys that are unknown or have bad values; its sentence starts with `before`.
        """
        if not isinstance(changes, dict):
            raise BadInput("config must be an object of options")
        given = read(_CONFIG, changes, before)
        changed = self.model_copy(update={key: getattr(given, key) for key in given.given})
        if given.given & {"tools", "tool_choice"}:
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
        """How long after its end a turn continues if its speaker does; 0: never.

        A user who dictates wants each sentence as it is said. With eager ends more turns end too
        early, and have to be continued.
        """
        if self.reopen_ms is not None:
            return self.reopen_ms
        if self.mode == "transcribe":
            return 0
        is_eager = self.turn_detection == "semantic" and self.eagerness == "high"
        return EAGER_REOPEN_MS if is_eager else REOPEN_MS

    @property
    def waits(self) -> Waits | None:
        """How much silence ends a turn, by the score of the pause. None: `silence_ms`, always.

        If the model may call a tool, no turn ends before `silence_ms`: words that came too early
        can be taken back, but what a tool did cannot.
        """
        if self.turn_detection != "semantic":
            return None
        eagerness = "medium" if self.eagerness == "auto" else self.eagerness
        waits = Waits.of(eagerness, self.silence_ms)
        may_act = bool(self.tools) and self.tool_choice != "none"
        return waits.at_least(self.silence_ms) if may_act else waits

    def require_scorer(self, has_scorer: bool) -> None:
        """Raises BadInput for turn detection by scores if the worker cannot score."""
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


_CONFIG = TypeAdapter(SessionConfig)
# What a caller may set.
OPTIONS = options_of(SessionConfig)
