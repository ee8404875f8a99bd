"""The options of a realtime session, as OpenAI names them."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo
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
from voxtral_worker.server.openai.realtime.audio_options import (
    FORMATS,
    Audio,
    AudioInput,
    AudioOutput,
    Known,
    SemanticVad,
    ServerVad,
    Transcription,
)
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
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS, SessionConfig
from voxtral_worker.values.may import CHOICE, May, told
from voxtral_worker.values.model import known_of

P = TypeVar("P", bound=Parameters)

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
_TEXT_OR_AUDIO = core_schema.literal_schema(["text", "audio"])
Modalities: TypeAlias = Annotated[
    list[str],
    May(
        '["text"] or ["audio"]',
        core_schema.list_schema(_TEXT_OR_AUDIO, min_length=1, fail_fast=True),
    ),
]


class SessionOptions(Parameters):
    """All options in effect; or, as a client sends them, those that it changes."""

    extras: ClassVar[Mapping[str, Extra]] = {
        # Frameworks send these to any server. They do not change the answers of this worker, and
        # the session object shows what is in effect. Clients may also send that object back.
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
    # The tools in effect, from all updates.
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
        said, name = (
            (given.tools, given.tool_choice, given.parallel_tool_calls),
            "session.tool_choice",
        )
        with told_of(name):
            toolbox = offered(*said, name, self.toolbox, may_come=True)
        changed = merged(self, given).model_copy(update={"toolbox": toolbox})
        return changed.transcribing() if changed.only_transcribes else changed

    def config(self) -> SessionConfig:
        """These options as a config of a session."""
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
            # A client that asks for responses itself acts on each turn as soon as it ends, so the
            # turn cannot be reopened.
            reopen_ms=None if answers_turns else 0,
            voice=spoken.voice if self.speaks and not self.only_transcribes else None,
            output_encoding=output_encoding,
            output_sample_rate=output_rate,
            speech_speed=spoken.speed,
            runs_rounds=False,
        ).model_copy(update=config_of_tools(self.toolbox))

    def as_object(self, session_id: str, model: str) -> dict[str, Any]:
        """The session as a JSON object of OpenAI's."""
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
    """The options before, changed by those that were given; audio is changed part by part."""
    changes = {key: getattr(given, key) for key in given.model_fields_set - {*TOOL_KEYS}}
    for key, value in changes.items():
        if isinstance(value, Audio | AudioInput | AudioOutput):
            changes[key] = merged(getattr(before, key), value)
    return before.model_copy(update=changes)


def modalities(*, speaks: bool) -> list[str]:
    """What responses are, in OpenAI's words."""
    return ["audio"] if speaks else ["text"]


def config_of_tools(tools: Toolbox) -> dict[str, Any]:
    """Tools as options of a session's config."""
    return {
        "tools": tools.tools,
        "tool_choice": tools.named or tools.choice,
        "parallel_tool_calls": tools.parallel,
    }


def as_tokens(most: int | str) -> int:
    """The limit of a response in tokens; `inf` is the most that the worker allows."""
    return most if isinstance(most, int) else MAX_NEW_TOKENS
