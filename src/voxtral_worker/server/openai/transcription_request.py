"""Reads a transcription's form."""

from dataclasses import dataclass
from typing import Any

from voxtral_worker.engine.conversation import TRANSCRIPT_TOKENS_PER_WINDOW
from voxtral_worker.engine.request import Sampling
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.json_text import read_json
from voxtral_worker.server.openai.body import Form
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.options import Options, wrong
from voxtral_worker.sessions.config import LANGUAGES

TIMED_FORMATS = ("verbose_json", "srt", "vtt")
FORMATS = ("json", "text", *TIMED_FORMATS)
_KNOWN = (
    "model",
    "language",
    # A hint, and the model takes none when it transcribes.
    "prompt",
    # Cut at pauses, whatever it says.
    "chunking_strategy",
    "chunking_strategy[type]",
    "temperature",
    "response_format",
    "stream",
    "timestamp_granularities",
)
_UNSUPPORTED = (
    "chunking_strategy[threshold]",
    "chunking_strategy[prefix_padding_ms]",
    "chunking_strategy[silence_duration_ms]",
    "include",
    "keywords",
    "languages",
    "known_speaker_names",
    "known_speaker_references",
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
        _KNOWN,
        unsupported_keys=_UNSUPPORTED,
    )
    if not form.file:
        raise BadOption("file", "file is missing, or empty", "missing_required_parameter")
    _require_chunking(options)
    language = options.get("language") or None
    if language is not None and language not in LANGUAGES:
        raise wrong("language", language, "an ISO 639-1 code")
    streams = _flag(options)
    written = _format(options, streams)
    sampling = Sampling(_temperature(options), 1.0, TRANSCRIPT_TOKENS_PER_WINDOW)
    return TranscriptionRequest(
        options.get("model"), form.file, language, sampling, written, streams
    )


def _values(form: Form) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field, value in form.fields:
        name = field.removesuffix("[]")
        if name in values and name == field:
            raise BadOption(name, f"{name} is given twice")
        if name == "timestamp_granularities" and value not in ("segment", ""):
            told = f"{name} is {shown(value)}, but only a segment has times here"
            raise unsupported(name, told)
        # A form has no null: an empty field stands for it.
        values[name] = value or None
    return values


def _require_chunking(options: Options) -> None:
    """The recording is always cut where the VAD hears pauses, by values of its own."""
    for name in ("chunking_strategy", "chunking_strategy[type]"):
        value = options.get(name)
        if value not in (None, "auto", "server_vad") and _kind_of(value) != {"type": "server_vad"}:
            raise wrong(name, value, "auto, or server_vad without values of its own")


def _kind_of(value: str) -> object:
    try:
        return read_json(value, "chunking_strategy")
    except BadInput:
        return value


def _flag(options: Options) -> bool:
    value = options.get("stream")
    choices = {None: False, "false": False, "true": True}
    text = value.lower() if value is not None else None
    if text not in choices:
        raise wrong("stream", value, "true or false")
    return choices[text]


def _format(options: Options, streams: bool) -> str:
    written = options.get("response_format") or "json"
    if written == "diarized_json":
        raise unsupported("response_format", f"response_format {written} is not supported")
    if written not in FORMATS:
        raise wrong("response_format", written, "one of " + ", ".join(FORMATS))
    if streams and written in TIMED_FORMATS:
        raise unsupported("response_format", f"a stream has words only: {written} is not streamed")
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
