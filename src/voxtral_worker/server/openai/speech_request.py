"""Reads the body of `POST /v1/audio/speech`."""

from collections.abc import Mapping
from typing import Annotated, Any

from voxtral_worker.server.openai.parameters import (
    Parameters,
    checked_text,
    ignored,
    keys,
    option,
    read_parameters,
    text,
)
from voxtral_worker.speech.files import FORMATS
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS
from voxtral_worker.speech.voice import DEFAULT_VOICE
from voxtral_worker.values.may import choice, made_of, number

MAX_INPUT_CHARACTERS = 4096
MAX_MODEL_CHARACTERS = 256
MIN_SPEED, MAX_SPEED = 0.25, 4.0
DEFAULT_FORMAT = "mp3"


def _spoken(value: object, _: str) -> str:
    if value is None:
        raise option("is missing: the text that is to be spoken", "missing_required_parameter")
    told = checked_text(value, MAX_INPUT_CHARACTERS)
    if not told.strip():
        raise option("is empty, but must be a text", "invalid_value")
    return told


class SpeechRequest(Parameters):
    """A text, and how to speak it."""

    # Ignored: the voice has one way of speaking.
    extras = keys(ignored, "instructions")
    # Ignored: there is one voice, whatever the name of its model.
    model: Annotated[str, text(MAX_MODEL_CHARACTERS)] = ""
    input: Annotated[
        str,
        made_of(_spoken, {"type": "string", "minLength": 1, "maxLength": MAX_INPUT_CHARACTERS}),
    ]
    voice: Annotated[str, text(MAX_VOICE_CHARACTERS)] = DEFAULT_VOICE
    response_format: Annotated[str, choice(*FORMATS)] = DEFAULT_FORMAT
    speed: Annotated[float, number(MIN_SPEED, MAX_SPEED)] = 1.0
    stream_format: Annotated[str, choice("audio")] = "audio"


def read_speech(body: Mapping[str, Any]) -> SpeechRequest:
    """Read a body. Raises one BadOption that names all that is wrong."""
    return read_parameters(SpeechRequest, body)
