"""The audio of a realtime session: formats, turn detection, transcription, speech."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.parameters import Parameters, ignored, keys, text, unsupported_key
from voxtral_worker.server.openai.speech_request import MAX_SPEED, MIN_SPEED
from voxtral_worker.sessions.config import LANGUAGES, Eagerness
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS, Encoding
from voxtral_worker.speech.voice import DEFAULT_VOICE
from voxtral_worker.values.may import CHOICE, OR_NULL, Flag, May, at, may_be, number, whole
from voxtral_worker.values.model import By, known_of

# By OpenAI's name of a format: this worker's name, and the rate in Hz.
FORMATS: dict[str, tuple[Encoding, int]] = {
    "audio/pcm": ("pcm_s16le", 24_000),
    "audio/pcmu": ("mulaw", 8_000),
    "audio/pcma": ("alaw", 8_000),
}


@dataclass(frozen=True)
class Known:
    """What validators of an update ask: the model's names, and whether answers will be speech."""

    names: ModelNames
    speaks: bool


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
        """The format as a JSON object of OpenAI's."""
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
    # An empty code is the same as null.
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
            # An empty name is the same as a missing one.
            value = {**value, "voice": None}
        try:
            return handler(value)
        except ValidationError:
            # Frameworks also describe speech for sessions that answer in text, even speech that the
            # worker does not offer. It has no effect there, so it is not an error.
            if not isinstance(value, dict) or known_of(info).speaks:
                raise
            return AudioOutput()
