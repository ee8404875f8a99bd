"""The options of a realtime session, as OpenAI names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from voxtral_worker.engine.tools import NO_TOOLS, Toolbox
from voxtral_worker.errors import shown
from voxtral_worker.server.openai.errors import told_of, unsupported
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.parameters import (
    Extra,
    Parameters,
    anything,
    ignored,
    keys,
    read_parameters,
    text,
    unsupported_key,
)
from voxtral_worker.server.openai.speech_request import MAX_SPEED, MIN_SPEED
from voxtral_worker.server.openai.tools import (
    DEFAULT_NEW_TOKENS,
    MAX_NEW_TOKENS,
    TOOL_KEYS,
    Parallel,
    ToolChoice,
    Tools,
    offered,
    shown_choice,
)
from voxtral_worker.sessions.config import LANGUAGES, MAX_TEXT_CHARACTERS, Eagerness, SessionConfig
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS, Encoding
from voxtral_worker.speech.voice import DEFAULT_VOICE
from voxtral_worker.values import (
    CHOICE,
    OR_NULL,
    By,
    Flag,
    May,
    at,
    known_of,
    may_be,
    number,
    told,
    whole,
)

P = TypeVar("P", bound=Parameters)

# OpenAI's name of a format, this worker's, and the rate in Hz.
FORMATS: dict[str, tuple[Encoding, int]] = {
    "audio/pcm": ("pcm_s16le", 24_000),
    "audio/pcmu": ("mulaw", 8_000),
    "audio/pcma": ("alaw", 8_000),
}
# The names of OpenAI's preview, and what the last release says instead.
_RENAMED = {
    "modalities": "output_modalities",
    "turn_detection": "audio.input.turn_detection",
    "input_audio_format": "audio.input.format",
    "input_audio_transcription": "audio.input.transcription",
    "max_response_output_tokens": "max_output_tokens",
    "voice": "audio.output.voice",
    "output_audio_format": "audio.output.format",
    "temperature": "no option of this name",
}


class AudioFormat(Parameters):
    """How audio is encoded; the rate follows from the type."""

    type: Annotated[Literal["audio/pcm", "audio/pcmu", "audio/pcma"], CHOICE]
    """How a sample is encoded. `audio/pcm` has 16 bits, the others are G.711."""
    rate: Annotated[int, whole(8000, 24_000)] | None = None
    """Samples per second: 24000 with `audio/pcm`, else 8000."""

    @model_validator(mode="after")
    def _has_its_rate(self) -> "AudioFormat":
        _, rate = FORMATS[self.type]
        if self.rate not in (None, rate):
            raise at("rate", may_be(f"{rate} with {self.type}"), self.rate)
        return self

    def as_object(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        _, rate = FORMATS[self.type]
        return {"type": self.type, **({"rate": rate} if self.type == "audio/pcm" else {})}


class ServerVad(Parameters):
    """Silence ends a turn."""

    extras = keys(unsupported_key(), "idle_timeout_ms")
    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, number(0, 1), AfterValidator(float)] = 0.5
    """The probability of speech from which a frame is speech."""
    prefix_padding_ms: Annotated[int, whole(0, 5000)] = 300
    """How much audio before the speech belongs to the turn."""
    silence_duration_ms: Annotated[int, whole(100, 3000)] = 500
    """Silence that ends a turn."""
    create_response: Flag = True
    """Answer each turn. A turn that is not answered does not continue once it has ended."""
    interrupt_response: Flag = True
    """Speech interrupts the response in progress."""


class SemanticVad(Parameters):
    """Silence ends a turn, sooner if the words before it sound complete."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Annotated[Eagerness, CHOICE] = "auto"
    """How soon a turn ends; `auto` is `medium`."""
    create_response: Flag = True
    """Answer each turn. A turn that is not answered does not continue once it has ended."""
    interrupt_response: Flag = True
    """Speech interrupts the response in progress."""


TurnDetection: TypeAlias = Annotated[
    ServerVad | SemanticVad, By("type", "server_vad or semantic_vad")
]
_LANGUAGE = May("an ISO 639-1 code", core_schema.literal_schema([*sorted(LANGUAGES), "", None]))


class Transcription(Parameters):
    """The worker also transcribes what the user says, whatever model is named."""

    extras = {
        **keys(ignored, "model prompt"),
        **keys(unsupported_key(), "delay keywords languages"),
    }
    # An empty code is the same as none.
    language: Annotated[str | None, _LANGUAGE, AfterValidator(lambda code: code or None)] = None
    """The language of the user."""


PCM = AudioFormat(type="audio/pcm")


class AudioInput(Parameters):
    """The audio of the user."""

    extras = keys(ignored, "noise_reduction")
    format: AudioFormat = PCM
    turn_detection: Annotated[TurnDetection | None, OR_NULL] = ServerVad()
    """How turns end. Null: audio waits for `commit`, and the answer for `response.create`."""
    transcription: Annotated[Transcription | None, OR_NULL] = None
    """Also transcribe the user's speech, with the served model whatever you name. Null: do not."""


class AudioOutput(Parameters):
    """The speech of answers."""

    format: AudioFormat = PCM
    voice: Annotated[str, text(MAX_VOICE_CHARACTERS)] = DEFAULT_VOICE
    """The voice that speaks."""
    speed: Annotated[float, number(MIN_SPEED, MAX_SPEED), AfterValidator(float)] = 1.0
    """How fast it speaks."""


class Audio(Parameters):
    """Audio in both directions."""

    output: AudioOutput = AudioOutput()
    input: AudioInput = AudioInput()

    @field_validator("output", mode="wrap")
    @classmethod
    def _usable(
        cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> object:
        if isinstance(value, dict) and value.get("voice") == "":
            # An empty name is the same as none.
            value = {**value, "voice": None}
        try:
            return handler(value)
        except ValidationError:
            # Clients describe the speech of sessions without any, and in ways that they could not
            # have with it.
            if not isinstance(value, dict) or known_of(info).speaks:
                raise
            return AudioOutput()


@dataclass(frozen=True)
class Known:
    """What an update is read with: the names of the model, and whether answers will be speech."""

    names: ModelNames
    speaks: bool


def _served(name: object, info: ValidationInfo) -> object:
    names = known_of(info).names
    if names.include(name):
        return name
    served = f"served is {names.served!r}"
    raise told(lambda param, _: unsupported(param, f"{param} is {shown(name)}; {served}"))


MostTokens: TypeAlias = Annotated[
    Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | Literal["inf"],
    May(f'a whole number from 1 to {MAX_NEW_TOKENS}, or "inf"'),
]
Modalities: TypeAlias = Annotated[
    list[Literal["text", "audio"]], Field(min_length=1), May('["text"] or ["audio"]')
]


class SessionOptions(Parameters):
    """All options in force. As a client sends them, those that it changes."""

    extras: ClassVar[Mapping[str, Extra]] = {
        # Frameworks send these to any server. They do not change the answers of this worker, and
        # the session object shows what is in force. What that says may be sent back, too.
        **keys(ignored, "truncation tracing prompt include reasoning"),
        **keys(ignored, "id object expires_at"),
        **{
            old: unsupported_key("{name} is of the preview; it has " + new + " now")
            for old, new in _RENAMED.items()
        },
    }
    needed = frozenset({"type"})
    type: Annotated[Literal["realtime", "transcription"], CHOICE] = "realtime"
    """What the session does. `transcription`: it transcribes, and gives no responses."""
    model: Annotated[Any, anything({"type": "string"}), AfterValidator(_served)] = None
    """A name of the served model."""
    instructions: Annotated[str, text(MAX_TEXT_CHARACTERS)] = ""
    """How the model is to answer."""
    max_output_tokens: MostTokens = DEFAULT_NEW_TOKENS
    """The limit of a response."""
    tools: Tools | None = None
    """The functions that the model may call."""
    tool_choice: ToolChoice = None
    """Whether a function is called, and which. You may send `required` before there are tools."""
    parallel_tool_calls: Parallel = None
    """The model may call several functions in one response."""
    output_modalities: Modalities = ["text"]
    """Whether responses are text or speech."""
    audio: Audio = Audio()
    # What all updates have said of tools.
    toolbox: Toolbox = Field(default=NO_TOOLS, exclude=True)

    @property
    def only_transcribes(self) -> bool:
        """Whether the user's speech is transcribed, and never answered."""
        return self.type == "transcription"

    @property
    def speaks(self) -> bool:
        """Whether answers are speech."""
        return "audio" in self.output_modalities

    @property
    def turn_detection(self) -> ServerVad | SemanticVad | None:
        """How turns are detected; None: the client says when a turn is over."""
        return self.audio.input.turn_detection

    @property
    def transcription(self) -> Transcription | None:
        """How the user's speech is transcribed; None: not at all."""
        return self.audio.input.transcription

    def transcribing(self) -> "SessionOptions":
        """These options for a session that transcribes and never answers."""
        heard = AudioInput(transcription=self.transcription or Transcription())
        return merged(self, SessionOptions(type="transcription", audio=Audio(input=heard)))

    def updated(self, session: object, names: ModelNames) -> "SessionOptions":
        """These options with a client's changes, all of them or none. Raises BadOption."""
        asked = session.get("output_modalities") if isinstance(session, dict) else None
        speaks = "audio" in asked if isinstance(asked, list) else self.speaks
        given = read_parameters(SessionOptions, session, ("session",), known=Known(names, speaks))
        tools, name = (
            self.toolbox.tools if given.tools is None else given.tools,
            "session.tool_choice",
        )
        with told_of(name):
            toolbox = offered(
                tools,
                given.tool_choice,
                given.parallel_tool_calls,
                name,
                self.toolbox,
                may_come=True,
            )
        changed = merged(self, given).model_copy(update={"toolbox": toolbox})
        return changed.transcribing() if changed.only_transcribes else changed

    def config(self) -> SessionConfig:
        """The same as options of the worker's own."""
        heard, spoken, turns = self.audio.input, self.audio.output, self.turn_detection
        encoding, rate = FORMATS[heard.format.type]
        output_encoding, output_rate = FORMATS[spoken.format.type]
        silence = turns if isinstance(turns, ServerVad) else ServerVad()
        answers_turns = bool(turns and turns.create_response) and not self.only_transcribes
        return SessionConfig(
            max_length=as_tokens(self.max_output_tokens),
            system_prompt=self.instructions or None,
            silence_ms=silence.silence_duration_ms,
            sample_rate=rate,
            encoding=encoding,
            barge_in=turns is None or turns.interrupt_response,
            threshold=silence.threshold,
            pre_roll_ms=silence.prefix_padding_ms,
            answers_turns=answers_turns,
            turn_detection="semantic" if isinstance(turns, SemanticVad) else "silence",
            eagerness=turns.eagerness if isinstance(turns, SemanticVad) else "auto",
            # What its client acts upon stays as it is.
            reopen_ms=None if answers_turns else 0,
            voice=spoken.voice if self.speaks and not self.only_transcribes else None,
            output_encoding=output_encoding,
            output_sample_rate=output_rate,
            speech_speed=spoken.speed,
            runs_rounds=False,
        ).model_copy(update=config_of_tools(self.toolbox))

    def as_object(self, session_id: str, model: str) -> dict[str, Any]:
        """As OpenAI shows it."""
        heard, spoken, turns = self.audio.input, self.audio.output, self.turn_detection
        without_timeout = {"idle_timeout_ms": None} if isinstance(turns, ServerVad) else {}
        audio: dict[str, Any] = {
            "input": {
                "format": heard.format.as_object(),
                "transcription": heard.transcription
                and {"model": model, "language": heard.transcription.language},
                "noise_reduction": None,
                "turn_detection": turns and turns.model_dump() | without_timeout,
            }
        }
        if self.only_transcribes:
            return {
                "type": "transcription",
                "object": "realtime.transcription_session",
                "id": f"sess_{session_id}",
                "include": None,
                "audio": audio,
            }
        if self.speaks:
            audio["output"] = {**spoken.model_dump(), "format": spoken.format.as_object()}
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{session_id}",
            "model": model,
            "output_modalities": modalities(speaks=self.speaks),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "tools": [tool.as_option() for tool in self.toolbox.tools],
            "tool_choice": shown_choice(self.toolbox),
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "audio": audio,
        }


def merged(before: P, given: P) -> P:
    """Options with those that were given, also within audio; the rest is as before."""
    changes = {key: getattr(given, key) for key in given.model_fields_set - {*TOOL_KEYS}}
    for key, value in changes.items():
        if isinstance(value, Audio | AudioInput | AudioOutput):
            changes[key] = merged(getattr(before, key), value)
    return before.model_copy(update=changes)


def modalities(*, speaks: bool) -> list[str]:
    """What answers are, as OpenAI says it."""
    return ["audio"] if speaks else ["text"]


def config_of_tools(tools: Toolbox) -> dict[str, Any]:
    """Tools as options of the worker's own."""
    return {
        "tools": tools.tools,
        "tool_choice": tools.named or tools.choice,
        "parallel_tool_calls": tools.parallel,
    }


def as_tokens(most: int | str) -> int:
    """`inf` is as many as there may be."""
    return most if isinstance(most, int) else MAX_NEW_TOKENS
