"""The options of a realtime session, as OpenAI names them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from voxtral_worker.server.openai.errors import unsupported
from voxtral_worker.server.openai.options import Options, wrong
from voxtral_worker.sessions.config import LANGUAGES, MAX_TEXT_CHARACTERS, SessionConfig

MAX_NEW_TOKENS = 4096
DEFAULT_NEW_TOKENS = 1024
# OpenAI's name of a format, this worker's, and the rate in Hz.
FORMATS = {
    "audio/pcm": ("pcm_s16le", 24_000),
    "audio/pcmu": ("mulaw", 8_000),
    "audio/pcma": ("alaw", 8_000),
}

_HARMLESS: dict[str, tuple[object, ...]] = {
    "output_modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "truncation": ("auto",),
    "include": ([],),
    # What the worker says of itself in the session may come back.
    "object": ("realtime.session",),
}
# The names of OpenAI's preview, of which the last release says something else.
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


@dataclass(frozen=True)
class TurnDetection:
    """`server_vad`: the worker hears when a turn is over."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True

    def as_object(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {"type": "server_vad", **dataclasses.asdict(self), "idle_timeout_ms": None}


@dataclass(frozen=True)
class Transcription:
    """What the user says is written down as well."""

    language: str | None = None


@dataclass(frozen=True)
class SessionOptions:
    """All options in force; None for turn detection: the client says when a turn is over."""

    instructions: str = ""
    max_output_tokens: int | str = DEFAULT_NEW_TOKENS
    format: str = "audio/pcm"
    turn_detection: TurnDetection | None = TurnDetection()
    transcription: Transcription | None = None

    def updated(self, session: Options, model: str) -> "SessionOptions":
        """These options with changes, all of them or none. Raises BadOption."""
        for old, new in _RENAMED.items():
            if old in session.values:
                raise unsupported(
                    session.name(old), f"{session.name(old)} is of the preview; it has {new} now"
                )
        session.only(
            ("type", "model", "instructions", "max_output_tokens", "audio"),
            harmless=_HARMLESS,
            unsupported_keys=("prompt", "reasoning", "tracing"),
        )
        if session.get("type") == "transcription":
            raise unsupported(session.name("type"), "sessions that only transcribe are not offered")
        if session.one_of("type", "realtime") is None:
            raise wrong(session.name("type"), None, "realtime")
        if session.get("model") not in (None, model):
            raise unsupported(session.name("model"), "the model of a session cannot be changed")
        changed = self
        if (instructions := session.text("instructions", MAX_TEXT_CHARACTERS)) is not None:
            changed = dataclasses.replace(changed, instructions=instructions)
        if session.get("max_output_tokens") is not None:
            changed = dataclasses.replace(changed, max_output_tokens=most_tokens(session))
        if (audio := session.inner("audio")) is not None:
            changed = _with_audio(changed, audio, model)
        return changed

    def config(self) -> SessionConfig:
        """The same as options of the worker's own."""
        encoding, rate = FORMATS[self.format]
        turns = self.turn_detection or TurnDetection(create_response=False)
        return SessionConfig(
            max_length=as_tokens(self.max_output_tokens),
            system_prompt=self.instructions or None,
            silence_ms=turns.silence_duration_ms,
            sample_rate=rate,
            encoding=encoding,
            barge_in=turns.interrupt_response,
            threshold=turns.threshold,
            pre_roll_ms=turns.prefix_padding_ms,
            answers_turns=turns.create_response,
        )

    def as_object(self, session_id: str, model: str) -> dict[str, Any]:
        """As OpenAI shows it."""
        rate = {"rate": FORMATS[self.format][1]} if self.format == "audio/pcm" else {}
        heard = self.transcription
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{session_id}",
            "model": model,
            "output_modalities": ["text"],
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "tools": [],
            "tool_choice": "auto",
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "audio": {
                "input": {
                    "format": {"type": self.format, **rate},
                    "transcription": heard and {"model": model, "language": heard.language},
                    "noise_reduction": None,
                    "turn_detection": self.turn_detection and self.turn_detection.as_object(),
                }
            },
        }


def most_tokens(options: Options) -> int | str:
    """`max_output_tokens` as it is written. Raises BadOption."""
    if options.get("max_output_tokens") == "inf":
        return "inf"
    return options.whole("max_output_tokens", 1, MAX_NEW_TOKENS) or DEFAULT_NEW_TOKENS


def as_tokens(most: int | str) -> int:
    """`inf` is as many as there may be."""
    return most if isinstance(most, int) else MAX_NEW_TOKENS


def _with_audio(options: SessionOptions, audio: Options, model: str) -> SessionOptions:
    audio.only(("input",), unsupported_keys=("output",))
    heard = audio.inner("input")
    if heard is None:
        return options
    heard.only(("format", "turn_detection", "transcription"), unsupported_keys=("noise_reduction",))
    if (format_ := heard.inner("format")) is not None:
        options = dataclasses.replace(options, format=_format(format_))
    if "turn_detection" in heard.values:
        turns = _turn_detection(heard.inner("turn_detection"))
        options = dataclasses.replace(options, turn_detection=turns)
    if "transcription" in heard.values:
        transcription = _transcription(heard.inner("transcription"), model)
        options = dataclasses.replace(options, transcription=transcription)
    return options


def _format(options: Options) -> str:
    options.only(("type", "rate"))
    name = options.one_of("type", *FORMATS)
    if name is None:
        raise wrong(options.name("type"), None, "one of " + ", ".join(FORMATS))
    rate = FORMATS[name][1]
    options.whole("rate", rate, rate)
    return name


def _turn_detection(options: Options | None) -> TurnDetection | None:
    if options is None:
        return None
    defaults = TurnDetection()
    if options.get("type") == "semantic_vad":
        raise unsupported(
            options.name("type"),
            "semantic_vad is not supported; server_vad is",
        )
    options.only(
        ("type", *(field.name for field in dataclasses.fields(TurnDetection))),
        unsupported_keys=("idle_timeout_ms",),
    )
    if options.one_of("type", "server_vad") is None:
        raise wrong(options.name("type"), None, "server_vad")
    threshold = options.number("threshold", 0, 1)
    padding_ms = options.whole("prefix_padding_ms", 0, 5000)
    return TurnDetection(
        defaults.threshold if threshold is None else threshold,
        defaults.prefix_padding_ms if padding_ms is None else padding_ms,
        options.whole("silence_duration_ms", 100, 3000) or defaults.silence_duration_ms,
        options.flag("create_response", default=True),
        options.flag("interrupt_response", default=True),
    )


def _transcription(options: Options | None, model: str) -> Transcription | None:
    if options is None:
        return None
    options.only(
        ("model", "language"),
        harmless={"prompt": ("",)},
        unsupported_keys=("delay", "keywords", "languages"),
    )
    if options.get("model") not in (None, model):
        raise unsupported(options.name("model"), f"{options.name('model')} may be {model!r} only")
    language = options.get("language") or None
    if language is not None and language not in LANGUAGES:
        raise wrong(options.name("language"), language, "an ISO 639-1 code")
    return Transcription(language)
