"""Reads the form of a transcription."""

import contextlib
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError, core_schema

from voxtral_worker.engine.conversation import TRANSCRIPT_TOKENS_PER_WINDOW
from voxtral_worker.engine.request import Sampling
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.json_text import read_json
from voxtral_worker.server.openai.body import Form
from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.server.openai.parameters import (
    Parameters,
    anything,
    clash,
    keys,
    option,
    read_parameters,
    unsupported_key,
)
from voxtral_worker.sessions.config import LANGUAGES
from voxtral_worker.values.may import Flag, May, choice, made_of, may_be, number

TIMED_FORMATS = ("verbose_json", "srt", "vtt")
FORMATS = ("json", "text", *TIMED_FORMATS)


CHUNKING = "auto, or server_vad without values of its own"


def _file(value: object, _: str) -> bytes:
    if not isinstance(value, bytes) or not value:
        raise option("is missing, or empty", "missing_required_parameter")
    return value


def _format(value: object) -> object:
    if value == "diarized_json":
        raise option(f"{value} is not supported", "unsupported_parameter")
    return value


def _times(values: list[str], _: str) -> list[str]:
    for value in values:
        if value not in ("segment", ""):
            words = f"is {shown(value)}, but only a segment has times here"
            raise option(words, "unsupported_parameter")
    return values


def _chunking(value: str, _: str) -> str:
    """Accept only what the worker does anyway: it cuts at the pauses that its VAD hears."""
    if not _is_known(value):
        raise may_be(CHUNKING)
    return value


def _is_known(chunking: str) -> bool:
    with contextlib.suppress(BadInput):
        if read_json(chunking, "chunking_strategy") == {"type": "server_vad"}:
            return True
    return chunking in ("auto", "server_vad")


def _chunking_type(name: str, value: object) -> BadOption | None:
    told = f"{name} is {shown(value)}, but must be {CHUNKING}"
    return None if _is_known(str(value)) else BadOption(name, told, "invalid_value")


class TranscriptionRequest(Parameters):
    """A file, and how to transcribe it."""

    extras = {
        "chunking_strategy[type]": _chunking_type,
        **keys(
            unsupported_key(),
            "chunking_strategy[threshold] chunking_strategy[prefix_padding_ms] include keywords "
            "chunking_strategy[silence_duration_ms] languages known_speaker_names "
            "known_speaker_references",
        ),
    }
    file: Annotated[bytes, made_of(_file, {"type": "string", "format": "binary"})]
    model: Annotated[Any, anything({"type": "string"})]
    language: (
        Annotated[
            str, May("an ISO 639-1 code", core_schema.literal_schema(["", *sorted(LANGUAGES)]))
        ]
        | None
    ) = None
    # Ignored: the model takes no hint when it transcribes.
    prompt: Annotated[Any, anything({"type": "string"})] = None
    chunking_strategy: Annotated[str, made_of(_chunking, {"enum": ["auto", "server_vad"]})] = "auto"
    temperature: Annotated[float, number(0, 1)] = 0.0
    response_format: Annotated[str, choice(*FORMATS), BeforeValidator(_format)] = "json"
    stream: Flag = False
    timestamp_granularities: Annotated[
        list[str], made_of(_times, {"type": "array", "items": {"const": "segment"}})
    ] = []

    @property
    def sampling(self) -> Sampling:
        """The sampling of each window of the recording."""
        return Sampling(float(self.temperature), 1.0, TRANSCRIPT_TOKENS_PER_WINDOW)

    @classmethod
    def clashes(cls, given: dict[str, Any]) -> list[PydanticCustomError]:
        """See Values."""
        written = given.get("response_format")
        if given.get("stream") is not True or written not in TIMED_FORMATS:
            return []
        told = f"a stream has words only: {written} is not streamed"
        return [clash("response_format", told, "unsupported_parameter")]


def read_transcription(form: Form) -> TranscriptionRequest:
    """Read a form. Raises one BadOption that names all that is wrong."""
    values: dict[str, Any] = {"file": form.file}
    for field, text in form.fields:
        # `file` is the file, and not a field.
        name = field if field == "file[]" else field.removesuffix("[]")
        if name in values and name == field:
            raise BadOption(name, f"{name} is given twice")
        if name == "timestamp_granularities":
            values.setdefault(name, []).append(text)
        else:
            values[name] = _value(name, text)
    return read_parameters(TranscriptionRequest, values)


def _value(name: str, text: str) -> object:
    """The JSON value of a field's text. A text that cannot be read stays a text."""
    # A form has no null, so an empty field counts as missing.
    if not text:
        return None
    if name == "stream":
        return {"true": True, "false": False}.get(text.lower(), text)
    if name == "temperature":
        with contextlib.suppress(ValueError):
            return float(text)
    return text
