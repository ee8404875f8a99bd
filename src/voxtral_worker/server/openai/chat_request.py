"""Reads a chat completion's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from voxtral_worker.audio.recordings import from_base64
from voxtral_worker.engine.request import Sampling
from voxtral_worker.errors import BadInput
from voxtral_worker.server.openai.errors import BadOption, unsupported, within
from voxtral_worker.server.openai.options import Options, wrong

MAX_CHARACTERS = 500_000
MAX_MESSAGES = 2048
MAX_NEW_TOKENS = 4096
DEFAULT_NEW_TOKENS = 1024

_KNOWN = (
    "model",
    "messages",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
)
# What these values ask for happens anyway.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "stop": ([],),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "verbosity": ("medium",),
}
# Notes of the caller's own, which change no answer.
_NOTES = ("user", "metadata", "safety_identifier", "prompt_cache_key")
_UNSUPPORTED = (
    "audio",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "seed",
    "top_logprobs",
    "web_search_options",
)


@dataclass(frozen=True)
class EncodedAudio:
    """A file that is not decoded yet; `param` is how errors name it."""

    param: str
    data: bytes


Part: TypeAlias = str | EncodedAudio


@dataclass(frozen=True)
class Said:
    """What one side says before the other does; neighbours of one role are joined."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ChatRequest:
    """`said` begins and ends with the user, and the roles alternate."""

    model: object
    said: tuple[Said, ...]
    system_prompt: str | None
    sampling: Sampling
    streams: bool
    tells_usage: bool


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """The request that a body asks for. Raises BadOption that names the parameter."""
    options = Options(body)
    options.only((*_KNOWN, *_NOTES), harmless=_HARMLESS, unsupported_keys=_UNSUPPORTED)
    system, said = _messages(options.get("messages"))
    streams = options.flag("stream")
    return ChatRequest(
        options.get("model"),
        said,
        system,
        _sampling(options),
        streams,
        _tells_usage(options, streams),
    )


def _sampling(options: Options) -> Sampling:
    defaults = Sampling()
    temperature = options.number("temperature", 0, 2)
    top_p = options.number("top_p", 0, 1)
    old = options.whole("max_tokens", 1, MAX_NEW_TOKENS)
    new = options.whole("max_completion_tokens", 1, MAX_NEW_TOKENS)
    if old is not None and new is not None:
        raise BadOption("max_tokens", "send max_completion_tokens or max_tokens, not both")
    return Sampling(
        defaults.temperature if temperature is None else temperature,
        defaults.top_p if top_p is None else top_p,
        old or new or DEFAULT_NEW_TOKENS,
    )


def _tells_usage(options: Options, streams: bool) -> bool:
    inner = options.inner("stream_options")
    if inner is None:
        return False
    if not streams:
        raise BadOption("stream_options", "stream_options goes with stream: true only")
    inner.only(("include_usage",), harmless={"include_obfuscation": (False,)})
    return inner.flag("include_usage")


def _messages(value: object) -> tuple[str | None, tuple[Said, ...]]:
    if not isinstance(value, list) or not value or len(value) > MAX_MESSAGES:
        raise wrong("messages", value, f"a list of 1 to {MAX_MESSAGES} messages")
    every = [_message(f"messages[{index}]", message) for index, message in enumerate(value)]
    characters = sum(len(part) for said in every for part in said.parts if isinstance(part, str))
    if characters > MAX_CHARACTERS:
        raise BadOption("messages", f"messages have more than {MAX_CHARACTERS} characters")
    turns = _joined(every)
    system = None
    if turns[0].role == "system":
        system = "".join(part for part in turns.pop(0).parts if isinstance(part, str))
    for index, said in enumerate(every):
        if said.role == "system" and any(before.role != "system" for before in every[:index]):
            param = f"messages[{index}].role"
            raise unsupported(param, "system and developer messages must come first")
    if not turns or turns[0].role != "user" or turns[-1].role != "user":
        raise BadOption(
            "messages", "messages must begin, after system messages, and end with role user"
        )
    return system, tuple(turns)


def _joined(every: list[Said]) -> list[Said]:
    turns: list[Said] = []
    for said in every:
        if not turns or turns[-1].role != said.role:
            turns.append(said)
            continue
        before = turns[-1].parts
        # As mistral-common joins the texts of neighbours of one role.
        are_texts = isinstance(before[-1], str) and isinstance(said.parts[0], str)
        turns[-1] = Said(said.role, (*before, *(("\n\n",) if are_texts else ()), *said.parts))
    return turns


def _message(path: str, value: object) -> Said:
    message = Options.of(value, path)
    message.only(
        ("role", "content", "name"),
        harmless={"refusal": (), "tool_calls": ([],), "function_call": (), "annotations": ([],)},
        unsupported_keys=("audio", "tool_call_id"),
    )
    role = message.get("role")
    if role in ("tool", "function"):
        raise unsupported(f"{path}.role", f"messages of the role {role} are not supported")
    role = message.one_of("role", "system", "developer", "user", "assistant")
    if role is None:
        raise wrong(f"{path}.role", None, "one of system, developer, user, assistant")
    parts = _content(message.name("content"), message.get("content"), role)
    return Said("system" if role == "developer" else role, parts)


def _content(path: str, value: object, role: str) -> tuple[Part, ...]:
    if isinstance(value, str):
        value = [{"type": "text", "text": value}]
    if not isinstance(value, list) or not value:
        raise wrong(path, value, "a text or a list of parts")
    return tuple(_part(f"{path}[{index}]", part, role) for index, part in enumerate(value))


def _part(path: str, value: object, role: str) -> Part:
    part = Options.of(value, path)
    match part.get("type"):
        case "text":
            part.only(("type", "text"))
            text = part.text("text", MAX_CHARACTERS)
            if not text or not text.strip():
                raise wrong(part.name("text"), text, "a text that is not empty")
            return text
        case "input_audio" if role == "user":
            part.only(("type", "input_audio"))
            return _audio(Options.of(part.get("input_audio"), part.name("input_audio")))
    raise unsupported(
        part.name("type"), f"{part.name('type')} may be text, and input_audio of a user"
    )


def _audio(audio: Options) -> EncodedAudio:
    audio.only(("data", "format"))
    if audio.one_of("format", "wav", "mp3", "flac", "ogg") is None:
        raise wrong(audio.name("format"), None, "one of wav, mp3, flac, ogg")
    data, param = audio.get("data"), audio.name("data")
    if not isinstance(data, str) or not data:
        raise wrong(param, data, "base64")
    try:
        return EncodedAudio(param, from_base64(data))
    except BadInput as error:
        raise within(param, error) from None
