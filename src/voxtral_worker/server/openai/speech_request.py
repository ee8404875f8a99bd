"""Reads the parameters of `POST /v1/audio/speech`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.server.openai.options import Options, gathered
from voxtral_worker.speech.files import FORMATS
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS
from voxtral_worker.speech.voice import DEFAULT_VOICE

MAX_INPUT_CHARACTERS = 4096
MAX_MODEL_CHARACTERS = 256
MIN_SPEED, MAX_SPEED = 0.25, 4.0
DEFAULT_FORMAT = "mp3"
# How it is to be said: this voice has one way.
_WITHOUT_EFFECT = ("instructions",)


@dataclass(frozen=True)
class SpeechRequest:
    """A text and how it is to be said."""

    text: str
    voice: str
    format: str
    speed: float


def read_speech(body: Mapping[str, Any]) -> SpeechRequest:
    """The request that a body asks for. Raises one BadOption that names all that is wrong."""
    return gathered(body, "", _read)


def _read(options: Options) -> SpeechRequest:
    options.only(
        ("model", "input", "voice", "response_format", "speed", "stream_format", *_WITHOUT_EFFECT)
    )
    # There is one voice, by whatever name its model is asked for.
    options.text("model", MAX_MODEL_CHARACTERS)
    options.one_of("stream_format", "audio")
    text = options.text("input", MAX_INPUT_CHARACTERS)
    if "input" not in options.values or options.get("input") is None:
        told = "input is missing: the text that is to be spoken"
        options.report(BadOption("input", told, "missing_required_parameter"))
    elif text is not None and not text.strip():
        options.report(BadOption("input", "input is empty, but must be a text", "invalid_value"))
    speed = options.number("speed", MIN_SPEED, MAX_SPEED)
    return SpeechRequest(
        text or "",
        options.text("voice", MAX_VOICE_CHARACTERS) or DEFAULT_VOICE,
        options.one_of("response_format", *FORMATS) or DEFAULT_FORMAT,
        1.0 if speed is None else speed,
    )
