"""Reads a job's input into frozen values, or says which field is wrong.

Options of a job are the generation keys of a session's config, with the same ranges.
"""

import json
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from voxtral_worker.engine.conversation import AssistantTurn, Conversation, Exchange, UserTurn
from voxtral_worker.engine.request import Sampling
from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.sessions.config import OPTIONS, SessionConfig, is_clean_text, is_number

GENERATION_KEYS = ("temperature", "max_length", "top_p", "language", "system_prompt")
# More than any context holds; refused here because the engine would have to tokenise it first.
MAX_CHARACTERS = 500_000
MAX_TTL_S = 3600.0
DEFAULT_TTL_S = 900.0
DEFAULT_IDLE_S = 60.0


@dataclass(frozen=True)
class Options:
    """How the words of a job are made."""

    sampling: Sampling = Sampling()
    language: str | None = None
    system_prompt: str | None = None


@dataclass(frozen=True)
class Prompt:
    """One conversation to be answered, with the name of the field it came from."""

    field: str
    conversation: Conversation


@dataclass(frozen=True)
class HealthJob:
    """Asks how the worker is."""


@dataclass(frozen=True)
class TextJob:
    """One answer for every prompt."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    stream: bool


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


@dataclass(frozen=True)
class SessionJob:
    """Asks for a session, and keeps the worker up while people talk in it."""

    config: SessionConfig
    ttl_s: float
    idle_s: float


Job: TypeAlias = HealthJob | TextJob | TranscribeJob | AudioJob | SessionJob

_AUDIO_KEYS = ("audio_base64", "audio_url", "stream", *GENERATION_KEYS)
KEYS: dict[str, tuple[str, ...]] = {
    "health": (),
    "text": ("text", "texts", "messages", "stream", *GENERATION_KEYS),
    "transcribe": _AUDIO_KEYS,
    "audio": ("text", *_AUDIO_KEYS),
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
            return TextJob(prompts, options.sampling, _stream(fields))
        case "transcribe":
            options = _options(fields, SessionConfig(temperature=0.0))
            return TranscribeJob(_source(fields), options, _stream(fields))
        case "audio":
            options = _options(fields, SessionConfig())
            question = _text("text", fields["text"]) if "text" in fields else None
            return AudioJob(_source(fields), question, options, _stream(fields))
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
    if "type" not in value:
        raise BadInput(f"type is missing; it must be one of {', '.join(KEYS)}")
    kind = value["type"]
    if not isinstance(kind, str) or kind not in KEYS:
        raise wrong("type", kind, f"one of {', '.join(KEYS)}")
    for key in value:
        if key != "type" and key not in KEYS[kind]:
            takes = ", ".join(KEYS[kind]) or "nothing else"
            raise BadInput(
                f"{shown(key)} is not a field of a {kind} job; beside type it takes {takes}"
            )
    return value


def _options(fields: dict[str, Any], defaults: SessionConfig) -> Options:
    given = {key: fields[key] for key in GENERATION_KEYS if key in fields}
    for key, value in given.items():
        if not OPTIONS[key].is_good(value):
            raise wrong(key, value, OPTIONS[key].allowed)
    config = defaults.updated(given)
    sampling = Sampling(float(config.temperature), float(config.top_p), config.max_length)
    return Options(sampling, config.language, config.system_prompt)


def _stream(fields: dict[str, Any]) -> bool:
    value = fields.get("stream", False)
    if not isinstance(value, bool):
        raise wrong("stream", value, "true or false")
    return value


def _text(field: str, value: object) -> str:
    if not is_clean_text(value) or not isinstance(value, str) or not value.strip():
        raise wrong(field, value, "a text that is not empty")
    if len(value) > MAX_CHARACTERS:
        raise TooLarge(f"{field} has {len(value)} characters, but may have {MAX_CHARACTERS}")
    return value


def _one_of(fields: dict[str, Any], *choices: str) -> str:
    given = [choice for choice in choices if fields.get(choice) is not None]
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
    named = [(f"texts[{index}]", text) for index, text in enumerate(value)]
    return tuple(Prompt(name, _question(_text(name, text), options)) for name, text in named)


def _question(text: str, options: Options) -> Conversation:
    return Conversation(
        UserTurn((text,)), system_prompt=options.system_prompt, language=options.language
    )


def _conversation(value: object, options: Options) -> Conversation:
    """Messages as a conversation; neighbours of one role become one turn."""
    if not isinstance(value, list) or not value:
        raise wrong("messages", value, "a list of one message or more")
    said = [_message(f"messages[{index}]", message) for index, message in enumerate(value)]
    if sum(len(text) for _, text in said) > MAX_CHARACTERS:
        raise TooLarge(f"messages have more than {MAX_CHARACTERS} characters")
    system = options.system_prompt
    if said[0][0] == "system":
        if system is not None:
            raise BadInput("system_prompt and messages[0] both give a system prompt; send one")
        system = said.pop(0)[1]
    return Conversation(
        *_turns(said, len(value) - len(said)), system_prompt=system, language=options.language
    )


def _message(field: str, message: object) -> tuple[str, str]:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise wrong(field, message, "an object with the keys role and content")
    role = message["role"]
    if role not in ("system", "user", "assistant"):
        raise wrong(f"{field}.role", role, "one of system, user, assistant")
    return role, _text(f"{field}.content", message["content"])


def _turns(said: list[tuple[str, str]], first: int) -> tuple[UserTurn, tuple[Exchange, ...]]:
    turns: list[tuple[str, str]] = []
    for index, (role, text) in enumerate(said, first):
        if role == "system":
            raise BadInput(f"messages[{index}].role is 'system', which only the first may be")
        if turns and turns[-1][0] == role:
            # As mistral-common joins neighbours of one role.
            turns[-1] = (role, turns[-1][1] + "\n\n" + text)
        else:
            turns.append((role, text))
    if not turns or turns[0][0] != "user" or turns[-1][0] != "user":
        raise BadInput("messages must begin, after a system message, and end with role user")
    exchanges = tuple(
        Exchange(UserTurn((question,)), AssistantTurn(text=answer))
        for (_, question), (_, answer) in zip(turns[0:-1:2], turns[1:-1:2], strict=True)
    )
    return UserTurn((turns[-1][1],)), exchanges


def _source(fields: dict[str, Any]) -> AudioSource:
    field = _one_of(fields, "audio_base64", "audio_url")
    value = fields[field]
    if not isinstance(value, str) or not value.strip():
        raise wrong(field, value, "a text that is not empty")
    if field == "audio_url" and not _is_web_address(value):
        raise wrong(field, value, "an http:// or https:// address")
    return AudioSource(field, value)


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _session(fields: dict[str, Any]) -> SessionJob:
    config = SessionConfig().updated(fields.get("config") or {})
    ttl_s = _seconds(fields, "ttl_seconds", DEFAULT_TTL_S)
    return SessionJob(config, ttl_s, _seconds(fields, "idle_seconds", DEFAULT_IDLE_S))


def _seconds(fields: dict[str, Any], field: str, default: float) -> float:
    value = fields.get(field, default)
    if not is_number(value) or not 0 < value <= MAX_TTL_S:
        raise wrong(field, value, f"a number above 0 and at most {MAX_TTL_S:g}")
    return float(value)
