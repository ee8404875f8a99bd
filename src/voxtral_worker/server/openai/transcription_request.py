"""Reads a transcription's form."""

from dataclasses import dataclass
from typing import Any

from voxtral_worker.engine.request import Sampling
from voxtral_worker.server.openai.body import Form
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.options import Options, wrong
from voxtral_worker.sessions.config import LANGUAGES

# A window of 30 s; the fastest speakers need about half of it.
MAX_NEW_TOKENS = 512

_KNOWN = (
    "model",
    "language",
    "prompt",
    "temperature",
    "response_format",
    "stream",
    "timestamp_granularities[]",
)
_UNSUPPORTED = (
    "include[]",
    "keywords[]",
    "languages[]",
    "known_speaker_names[]",
    "known_speaker_references[]",
)


@dataclass(frozen=True)
class TranscriptionRequest:
    """A file, and how its words are wanted."""

    model: object
    file: bytes
    language: str | None
    sampling: Sampling
    format: str
    streams: bool


def read_transcription(form: Form) -> TranscriptionRequest:
    """The request that a form asks for. Raises BadOption that names the field."""
    options = Options(_values(form))
    options.only(
        (*_KNOWN, "timestamp_granularities"),
        harmless={"chunking_strategy": ("auto",)},
        unsupported_keys=(*_UNSUPPORTED, *(name.removesuffix("[]") for name in _UNSUPPORTED)),
    )
    if not form.file:
        raise BadOption("file", "file is missing, or empty", "missing_required_parameter")
    if (options.get("prompt") or "").strip():
        raise unsupported("prompt", "prompt: this model takes no text when it transcribes")
    language = options.get("language") or None
    if language is not None and language not in LANGUAGES:
        raise wrong("language", language, "an ISO 639-1 code")
    streams = _flag(options)
    written = _format(options, streams)
    sampling = Sampling(_temperature(options), 1.0, MAX_NEW_TOKENS)
    return TranscriptionRequest(
        options.get("model"), form.file, language, sampling, written, streams
    )


def _values(form: Form) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in form.fields:
        if name in values and not name.endswith("[]"):
            raise BadOption(name, f"{name} is given twice")
        values[name] = value
    granularities = [value for name, value in form.fields if name.startswith("timestamp_gran")]
    for value in granularities:
        if value != "segment":
            raise unsupported("timestamp_granularities", "only segments have timestamps here")
    return values


def _flag(options: Options) -> bool:
    value = options.get("stream")
    choices = {None: False, "false": False, "true": True}
    text = value.lower() if value is not None else None
    if text not in choices:
        raise wrong("stream", value, "true or false")
    return choices[text]


def _format(options: Options, streams: bool) -> str:
    written = options.get("response_format") or "json"
    if written in ("srt", "vtt", "diarized_json"):
        raise unsupported("response_format", f"response_format {written} is not supported")
    if written not in ("json", "text", "verbose_json"):
        raise wrong("response_format", written, "one of json, text, verbose_json")
    if streams and written == "verbose_json":
        raise unsupported(
            "response_format", "a stream has words only: verbose_json is not streamed"
        )
    return str(written)


def _temperature(options: Options) -> float:
    value = options.get("temperature")
    if value is None:
        return 0.0
    try:
        temperature = float(value)
    except ValueError:
        raise wrong("temperature", value, "a number from 0 to 1") from None
    if not 0 <= temperature <= 1:
        raise wrong("temperature", value, "a number from 0 to 1")
    return temperature
