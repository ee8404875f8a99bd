"""The options of a realtime session, as OpenAI names them."""

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any, cast, get_args

from voxtral_worker.engine.tools import NO_TOOLS, Toolbox
from voxtral_worker.errors import shown
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.options import Options, wrong
from voxtral_worker.server.openai.speech_request import MAX_SPEED, MIN_SPEED
from voxtral_worker.server.openai.tools import TOOL_KEYS, shown_choice, toolbox_of
from voxtral_worker.sessions.config import LANGUAGES, MAX_TEXT_CHARACTERS, Eagerness, SessionConfig
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS, Encoding
from voxtral_worker.speech.voice import DEFAULT_VOICE

MAX_NEW_TOKENS = 4096
DEFAULT_NEW_TOKENS = 1024
# OpenAI's name of a format, this worker's, and the rate in Hz.
FORMATS: dict[str, tuple[Encoding, int]] = {
    "audio/pcm": ("pcm_s16le", 24_000),
    "audio/pcmu": ("mulaw", 8_000),
    "audio/pcma": ("alaw", 8_000),
}

_HARMLESS: dict[str, tuple[object, ...]] = {}
_TAKEN = (
    "type",
    "model",
    "instructions",
    "max_output_tokens",
    "output_modalities",
    "audio",
    *TOOL_KEYS,
)
# Frameworks send these whoever answers. They change no text, and the session object shows
# what is in force; what the worker says of itself in the session may come back.
_WITHOUT_EFFECT = (
    "truncation",
    "tracing",
    "prompt",
    "include",
    "reasoning",
    "id",
    "object",
    "expires_at",
)
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
    """`server_vad`, or `semantic_vad` where there is an eagerness.

    The worker hears when a turn is over; the first three are those of `server_vad`.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True
    eagerness: Eagerness | None = None

    def as_object(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        answers = {
            "create_response": self.create_response,
            "interrupt_response": self.interrupt_response,
        }
        if self.eagerness is not None:
            return {"type": "semantic_vad", "eagerness": self.eagerness, **answers}
        return {
            "type": "server_vad",
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
            **answers,
            "idle_timeout_ms": None,
        }


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
    tools: Toolbox = NO_TOOLS
    # What is said is written down, and never answered.
    only_transcribes: bool = False
    # Whether answers are speech, and how they are spoken then.
    speaks: bool = False
    voice: str = DEFAULT_VOICE
    output_format: str = "audio/pcm"
    speed: float = 1.0

    def transcribing(self) -> "SessionOptions":
        """These options for a session that writes down what is said and never answers."""
        heard = self.transcription or Transcription()
        return dataclasses.replace(self, transcription=heard, only_transcribes=True)

    def updated(self, session: Options, names: ModelNames) -> "SessionOptions":
        """These options with changes, all of them or none. Raises BadOption, or reports it."""
        renamed = [old for old in _RENAMED if session.get(old) is not None]
        for old in renamed:
            told = f"{session.name(old)} is of the preview; it has {_RENAMED[old]} now"
            session.report(unsupported(session.name(old), told))
        session.only((*_TAKEN, *_WITHOUT_EFFECT, *renamed), harmless=_HARMLESS)
        kind = session.one_of("type", "realtime", "transcription")
        if session.get("type") is None:
            session.report(wrong(session.name("type"), None, "realtime or transcription"))
        asked = session.get("model")
        if asked is not None and not names.include(asked):
            told = f"{session.name('model')} is {shown(asked)}; served is {names.served!r}"
            session.report(unsupported(session.name("model"), told))
        changed = self
        if kind == "transcription" and not changed.only_transcribes:
            changed = changed.transcribing()
        elif kind == "realtime" and changed.only_transcribes:
            changed = dataclasses.replace(changed, only_transcribes=False)
        if (instructions := session.text("instructions", MAX_TEXT_CHARACTERS)) is not None:
            changed = dataclasses.replace(changed, instructions=instructions)
        if session.get("max_output_tokens") is not None:
            changed = dataclasses.replace(changed, max_output_tokens=most_tokens(session))
        tools = toolbox_of(session, self.tools, may_come=True)
        changed = dataclasses.replace(changed, tools=tools)
        speaks = read_modalities(session)
        if speaks is not None:
            changed = dataclasses.replace(changed, speaks=speaks)
        if (audio := session.inner("audio")) is not None:
            changed = _with_audio(changed, audio)
        return changed

    def config(self) -> SessionConfig:
        """The same as options of the worker's own."""
        encoding, rate = FORMATS[self.format]
        turns = self.turn_detection or TurnDetection(create_response=False)
        answers_turns = turns.create_response and not self.only_transcribes
        return SessionConfig(
            max_length=as_tokens(self.max_output_tokens),
            system_prompt=self.instructions or None,
            silence_ms=turns.silence_duration_ms,
            sample_rate=rate,
            encoding=encoding,
            barge_in=turns.interrupt_response,
            threshold=turns.threshold,
            pre_roll_ms=turns.prefix_padding_ms,
            answers_turns=answers_turns,
            turn_detection="silence" if turns.eagerness is None else "semantic",
            eagerness=turns.eagerness or "auto",
            # What its client acts upon stays as it is.
            reopen_ms=None if answers_turns else 0,
            voice=self.voice if self.speaks and not self.only_transcribes else None,
            output_encoding=FORMATS[self.output_format][0],
            output_sample_rate=FORMATS[self.output_format][1],
            speech_speed=self.speed,
            runs_rounds=False,
        ).model_copy(update=config_of_tools(self.tools))

    def as_object(self, session_id: str, model: str) -> dict[str, Any]:
        """As OpenAI shows it."""
        heard = self.transcription
        audio_input = {
            "format": _shown_format(self.format),
            "transcription": heard and {"model": model, "language": heard.language},
            "noise_reduction": None,
            "turn_detection": self.turn_detection and self.turn_detection.as_object(),
        }
        if self.only_transcribes:
            return {
                "type": "transcription",
                "object": "realtime.transcription_session",
                "id": f"sess_{session_id}",
                "include": None,
                "audio": {"input": audio_input},
            }
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{session_id}",
            "model": model,
            "output_modalities": modalities(speaks=self.speaks),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "tools": [tool.as_option() for tool in self.tools.tools],
            "tool_choice": shown_choice(self.tools),
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "audio": {"input": audio_input, **self._shown_output()},
        }

    def _shown_output(self) -> dict[str, Any]:
        if not self.speaks:
            return {}
        shown_format = _shown_format(self.output_format)
        return {"output": {"format": shown_format, "voice": self.voice, "speed": self.speed}}


def modalities(*, speaks: bool) -> list[str]:
    """What answers are, as OpenAI says it."""
    return ["audio"] if speaks else ["text"]


def read_modalities(options: Options) -> bool | None:
    """Whether answers are to be speech; None where nothing is said of it. Raises BadOption."""
    value = options.get("output_modalities")
    if value is None:
        return None
    is_good = isinstance(value, list) and value and all(each in ("text", "audio") for each in value)
    if not is_good:
        name = options.name("output_modalities")
        options.report(wrong(name, value, '["text"] or ["audio"]'))
        return None
    return "audio" in value


def _shown_format(name: str) -> dict[str, Any]:
    return {"type": name, **({"rate": FORMATS[name][1]} if name == "audio/pcm" else {})}


def config_of_tools(tools: Toolbox) -> dict[str, Any]:
    """Tools as options of the worker's own."""
    return {
        "tools": tools.tools,
        "tool_choice": tools.named or tools.choice,
        "parallel_tool_calls": tools.parallel,
    }


def most_tokens(options: Options) -> int | str:
    """`max_output_tokens` as it is written. Raises BadOption."""
    if options.get("max_output_tokens") == "inf":
        return "inf"
    return options.whole("max_output_tokens", 1, MAX_NEW_TOKENS) or DEFAULT_NEW_TOKENS


def as_tokens(most: int | str) -> int:
    """`inf` is as many as there may be."""
    return most if isinstance(most, int) else MAX_NEW_TOKENS


def _with_audio(options: SessionOptions, audio: Options) -> SessionOptions:
    audio.only(("input", "output"))
    if (spoken := audio.inner("output")) is not None:
        if options.speaks:
            options = _with_output(options, spoken)
        else:
            # It says how speech would be that is not made: what cannot be has no effect.
            with contextlib.suppress(BadOption):
                options = _with_output(options, Options(spoken.values, spoken.path))
    heard = audio.inner("input")
    if heard is None:
        return options
    heard.only(("format", "turn_detection", "transcription", "noise_reduction"))
    if (format_ := heard.inner("format")) is not None:
        options = dataclasses.replace(options, format=_format(format_))
    if "turn_detection" in heard.values:
        turns = _turn_detection(heard.inner("turn_detection"))
        options = dataclasses.replace(options, turn_detection=turns)
    if "transcription" in heard.values:
        transcription = _transcription(heard.inner("transcription"))
        if options.only_transcribes:
            transcription = transcription or Transcription()
        options = dataclasses.replace(options, transcription=transcription)
    return options


def _with_output(options: SessionOptions, spoken: Options) -> SessionOptions:
    spoken.only(("format", "voice", "speed"))
    format_ = spoken.inner("format")
    speed = spoken.number("speed", MIN_SPEED, MAX_SPEED)
    return dataclasses.replace(
        options,
        output_format=options.output_format if format_ is None else _format(format_),
        voice=spoken.text("voice", MAX_VOICE_CHARACTERS) or options.voice,
        speed=options.speed if speed is None else speed,
    )


def _format(options: Options) -> str:
    options.only(("type", "rate"))
    name = options.one_of("type", *FORMATS)
    if name is None:
        if options.get("type") is None:
            options.report(wrong(options.name("type"), None, "one of " + ", ".join(FORMATS)))
        return "audio/pcm"
    rate = FORMATS[name][1]
    options.whole("rate", rate, rate)
    return name


def _turn_detection(options: Options | None) -> TurnDetection | None:
    if options is None:
        return None
    defaults = TurnDetection()
    if options.get("type") == "semantic_vad":
        options.only(("type", "eagerness", "create_response", "interrupt_response"))
        return TurnDetection(
            eagerness=cast(Eagerness, options.one_of("eagerness", *get_args(Eagerness)) or "auto"),
            create_response=options.flag("create_response", default=True),
            interrupt_response=options.flag("interrupt_response", default=True),
        )
    options.only(
        (
            "type",
            *("threshold", "prefix_padding_ms", "silence_duration_ms"),
            *("create_response", "interrupt_response"),
        ),
        unsupported_keys=("idle_timeout_ms",),
    )
    options.one_of("type", "server_vad", "semantic_vad")
    if options.get("type") is None:
        options.report(wrong(options.name("type"), None, "server_vad or semantic_vad"))
    threshold = options.number("threshold", 0, 1)
    padding_ms = options.whole("prefix_padding_ms", 0, 5000)
    return TurnDetection(
        defaults.threshold if threshold is None else threshold,
        defaults.prefix_padding_ms if padding_ms is None else padding_ms,
        options.whole("silence_duration_ms", 100, 3000) or defaults.silence_duration_ms,
        options.flag("create_response", default=True),
        options.flag("interrupt_response", default=True),
    )


def _transcription(options: Options | None) -> Transcription | None:
    if options is None:
        return None
    # Whatever model is named, the served one writes; a prompt is a hint without effect.
    options.only(
        ("model", "language", "prompt"), unsupported_keys=("delay", "keywords", "languages")
    )
    language = options.get("language") or None
    if language is not None and language not in LANGUAGES:
        options.report(wrong(options.name("language"), language, "an ISO 639-1 code"))
        language = None
    return Transcription(language)
