"""Reads a job's input into frozen values, or says which field is wrong.

Options of a job are the generation keys of a session's config, with the same ranges.
"""

import json
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from voxtral_worker.audio.recordings import is_data_address
from voxtral_worker.engine.conversation import (
    TRANSCRIPT_TOKENS_PER_WINDOW,
    Audio,
    Conversation,
    UserTurn,
)
from voxtral_worker.engine.dialogue import Said, dialogue, exchanges
from voxtral_worker.engine.request import Sampling
from voxtral_worker.engine.tool_options import (
    read_call_id,
    read_calls,
    read_response_format,
    read_toolbox,
    read_tools,
)
from voxtral_worker.engine.tools import NO_TOOLS, Toolbox
from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.sessions.config import SessionConfig, is_clean_text, is_number
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS
from voxtral_worker.speech.voice import DEFAULT_VOICE

GENERATION_KEYS = ("temperature", "max_length", "top_p", "seed", "language", "system_prompt")
# A transcript is made of windows, and has no end of its own to ask for.
ANSWER_KEYS = (*GENERATION_KEYS, "stop")
TOOL_KEYS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
# More than any context holds; refused here because the engine would have to tokenise it first.
MAX_CHARACTERS = 500_000
MAX_TEXTS = 1024
SPEECH_FORMATS = ("mp3", "wav")
# Bad fields that one error names.
MAX_TOLD = 8
MAX_TTL_S = 3600.0
DEFAULT_TTL_S = 900.0
DEFAULT_IDLE_S = 60.0


@dataclass(frozen=True)
class Options:
    """How the words of a job are made."""

    sampling: Sampling = Sampling()
    language: str | None = None
    system_prompt: str | None = None
    tools: Toolbox = NO_TOOLS


@dataclass(frozen=True)
class Prompt:
    """One conversation to be answered, with the name of the field it came from."""

    field: str
    conversation: Conversation


@dataclass(frozen=True)
class HealthJob:
    """Asks how the worker is."""


@dataclass(frozen=True)
class SpokenAnswer:
    """Answers come as speech, too."""

    voice: str = DEFAULT_VOICE
    format: str = SPEECH_FORMATS[0]


@dataclass(frozen=True)
class TextJob:
    """One answer for every prompt."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    stream: bool
    spoken: SpokenAnswer | None = None
    language: str | None = None


@dataclass(frozen=True)
class AudioSource:
    """Where a job's audio is; `field` is `audio_base64` or `audio_url`."""

    field: str
    value: str


@dataclass(frozen=True)
class TranscribeJob:
    """Asks for the words of a recording."""

    source: AudioSource
    options: Options
    stream: bool


@dataclass(frozen=True)
class AudioJob:
    """Asks about a recording; without a question, the recording itself is the question."""

    source: AudioSource
    question: str | None
    options: Options
    stream: bool
    spoken: SpokenAnswer | None = None


@dataclass(frozen=True)
class SessionJob:
    """Asks for a session, and keeps the worker up while people talk in it."""

    config: SessionConfig
    ttl_s: float
    idle_s: float


Job: TypeAlias = HealthJob | TextJob | TranscribeJob | AudioJob | SessionJob

_SPEECH_KEYS = ("speech", "voice", "speech_format")
_AUDIO_KEYS = ("audio_base64", "audio_url", "stream")
KEYS: dict[str, tuple[str, ...]] = {
    "health": (),
    "text": ("text", "texts", "messages", "stream", *_SPEECH_KEYS, *ANSWER_KEYS, *TOOL_KEYS),
    "transcribe": (*_AUDIO_KEYS, *GENERATION_KEYS),
    "audio": ("text", *_AUDIO_KEYS, *_SPEECH_KEYS, *ANSWER_KEYS, *TOOL_KEYS),
    "session": ("config", "ttl_seconds", "idle_seconds"),
}


def read_input(value: object) -> Job:
    """The job that an input asks for.

    Raises BadInput that names the field, what it was and what it may be.
    """
    fields = _fields(value)
    match fields.get("type"):
        case "text":
            options = _options(fields, SessionConfig())
            prompts = _prompts(fields, options)
            return TextJob(
                prompts,
                options.sampling,
                _flag(fields, "stream"),
                _spoken(fields),
                options.language,
            )
        case "transcribe":
            # Each window of the recording is an answer of its own.
            defaults = SessionConfig(temperature=0.0, max_length=TRANSCRIPT_TOKENS_PER_WINDOW)
            options = _options(fields, defaults)
            return TranscribeJob(_source(fields), options, _flag(fields, "stream"))
        case "audio":
            options = _options(fields, SessionConfig())
            question = _text("text", fields["text"]) if fields.get("text", "") != "" else None
            return AudioJob(
                _source(fields), question, options, _flag(fields, "stream"), _spoken(fields)
            )
        case "session":
            return _session(fields)
        case _:
            return HealthJob()


def shown(value: object) -> str:
    """A JSON value in a few words of plain ASCII, however large it is."""
    if isinstance(value, list | dict):
        name = "a list" if isinstance(value, list) else "an object"
        return name if value else "an empty " + name.split()[1]
    if isinstance(value, str):
        return ascii(value) if len(value) <= 60 else ascii(value[:57]) + "..."
    if isinstance(value, int) and abs(value) > 10**15:
        return "a very large number"
    return json.dumps(value)


def wrong(field: str, value: object, allowed: str) -> BadInput:
    """The error that says what a field was and what it may be."""
    return BadInput(f"{field} is {shown(value)}, but must be {allowed}")


def _fields(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong("input", value, "an object")
    # What is null was not set by the client that wrote it.
    fields = {key: given for key, given in value.items() if given is not None}
    if "type" not in fields:
        raise BadInput(f"type is missing; it must be one of {', '.join(KEYS)}")
    kind = fields["type"]
    if not isinstance(kind, str) or kind not in KEYS:
        raise wrong("type", kind, f"one of {', '.join(KEYS)}")
    unknown = [shown(key) for key in fields if key != "type" and key not in KEYS[kind]]
    if unknown:
        takes = ", ".join(KEYS[kind]) or "nothing else"
        what = "is not a field" if len(unknown) == 1 else "are no fields"
        named = ", ".join(unknown[:MAX_TOLD])
        raise BadInput(f"{named} {what} of a {kind} job; beside type it takes {takes}")
    return fields


def _options(fields: dict[str, Any], defaults: SessionConfig) -> Options:
    given = {key: fields[key] for key in ANSWER_KEYS if key in fields}
    config = defaults.updated(given, before="")
    sampling = Sampling(
        float(config.temperature),
        float(config.top_p),
        config.max_length,
        config.stop,
        config.seed,
        read_response_format(fields.get("response_format"), "response_format"),
    )
    return Options(sampling, config.language, config.system_prompt, _toolbox(fields))


def _toolbox(fields: dict[str, Any]) -> Toolbox:
    tools = read_tools(fields.get("tools", []), "tools")
    return read_toolbox(tools, fields.get("tool_choice"), fields.get("parallel_tool_calls"))


def _flag(fields: dict[str, Any], field: str) -> bool:
    value = fields.get(field, False)
    if not isinstance(value, bool):
        raise wrong(field, value, "true or false")
    return value


def _spoken(fields: dict[str, Any]) -> SpokenAnswer | None:
    is_spoken = _flag(fields, "speech")
    voice = fields.get("voice", DEFAULT_VOICE)
    if not is_clean_text(voice) or not 0 < len(voice) <= MAX_VOICE_CHARACTERS:
        raise wrong("voice", voice, "the name of a voice")
    format_ = fields.get("speech_format", SPEECH_FORMATS[0])
    if not isinstance(format_, str) or format_ not in SPEECH_FORMATS:
        raise wrong("speech_format", format_, "one of " + ", ".join(SPEECH_FORMATS))
    return SpokenAnswer(voice, format_) if is_spoken else None


def _text(field: str, value: object, *, may_be_blank: bool = False) -> str:
    is_text = is_clean_text(value) and isinstance(value, str)
    if not is_text or not (may_be_blank or str(value).strip()):
        raise wrong(field, value, "a text" if may_be_blank else "a text that is not empty")
    assert isinstance(value, str)
    if len(value) > MAX_CHARACTERS:
        raise TooLarge(f"{field} has {len(value)} characters, but may have {MAX_CHARACTERS}")
    return value


def _one_of(fields: dict[str, Any], *choices: str) -> str:
    # An empty field that another one stands beside was not meant.
    there = [choice for choice in choices if choice in fields]
    given = [choice for choice in there if fields[choice] != ""] or there[:1]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise BadInput(f"exactly one of {', '.join(choices)} is needed, but the input has {found}")
    return given[0]


def _prompts(fields: dict[str, Any], options: Options) -> tuple[Prompt, ...]:
    field = _one_of(fields, "text", "texts", "messages")
    value = fields[field]
    if field == "messages":
        return (Prompt(field, _conversation(value, options)),)
    if field == "text":
        return (Prompt(field, _question(_text(field, value), options)),)
    if not isinstance(value, list) or not value:
        raise wrong(field, value, "a list of one text or more")
    if len(value) > MAX_TEXTS:
        raise BadInput(f"{field} has {len(value)} texts, but may have {MAX_TEXTS}")
    named = [(f"texts[{index}]", text) for index, text in enumerate(value)]
    return tuple(Prompt(name, _question(_text(name, text), options)) for name, text in named)


def _question(text: str, options: Options) -> Conversation:
    return Conversation(
        UserTurn((text,)),
        system_prompt=options.system_prompt,
        language=options.language,
        tools=options.tools,
    )


def _conversation(value: object, options: Options) -> Conversation:
    """Messages as a conversation; see `dialogue` for what any order of them means."""
    if not isinstance(value, list) or not value:
        raise wrong("messages", value, "a list of one message or more")
    said = [_message(f"messages[{index}]", message) for index, message in enumerate(value)]
    if (
        sum(len(text) for each in said for text in each.parts if isinstance(text, str))
        > MAX_CHARACTERS
    ):
        raise TooLarge(f"messages have more than {MAX_CHARACTERS} characters")
    if options.system_prompt:
        said.insert(0, Said("system", (options.system_prompt,)))
    try:
        meant = dialogue(said)
    except BadInput as error:
        raise error.of_field("messages") from None
    history, user, rounds = exchanges(meant.turns)
    return Conversation(
        user,
        history,
        meant.system,
        language=options.language,
        rounds=rounds,
        tools=options.tools,
    )


# What a message of each role may have beside role and name.
_MESSAGE_KEYS = {
    "system": ("content",),
    "developer": ("content",),
    "user": ("content",),
    "assistant": ("content", "tool_calls"),
    "tool": ("content", "tool_call_id"),
}


def _message(field: str, message: object) -> Said[str | Audio]:
    if not isinstance(message, dict):
        raise wrong(field, message, "an object with the keys role and content")
    given = {key: value for key, value in message.items() if value is not None}
    role, content = given.get("role"), given.get("content", "")
    if role is not None and (not isinstance(role, str) or role not in _MESSAGE_KEYS):
        raise wrong(f"{field}.role", role, "one of " + ", ".join(_MESSAGE_KEYS))
    known = _MESSAGE_KEYS[role or "user"]
    if role is None or not given.keys() <= {"role", "name", *known}:
        raise wrong(field, message, f"an object with the keys role and {', '.join(known)}")
    text = content if content == "" else _text(f"{field}.content", content, may_be_blank=True)
    if role == "tool":
        call_id = read_call_id(given.get("tool_call_id"), f"{field}.tool_call_id")
        return Said("tool", (text,), result_of=call_id)
    calls = read_calls(given.get("tool_calls", []), f"{field}.tool_calls")
    return Said("system" if role == "developer" else role, (text,), calls)


def _source(fields: dict[str, Any]) -> AudioSource:
    field = _one_of(fields, "audio_base64", "audio_url")
    value = fields[field]
    if not isinstance(value, str) or not value.strip():
        raise wrong(field, value, "a text that is not empty")
    if field == "audio_url" and not (is_data_address(value) or _is_web_address(value)):
        raise wrong(field, value, "an http:// or https:// address, or a data: address")
    return AudioSource(field, value)


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _session(fields: dict[str, Any]) -> SessionJob:
    config = SessionConfig().updated(fields.get("config", {}))
    ttl_s = _seconds(fields, "ttl_seconds", DEFAULT_TTL_S)
    return SessionJob(config, ttl_s, _seconds(fields, "idle_seconds", DEFAULT_IDLE_S))


def _seconds(fields: dict[str, Any], field: str, default: float) -> float:
    value = fields.get(field, default)
    if not is_number(value) or not 0 < value <= MAX_TTL_S:
        raise wrong(field, value, f"a number above 0 and at most {MAX_TTL_S:g}")
    return float(value)
