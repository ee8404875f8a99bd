"""Reads a chat completion's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from voxtral_worker.audio.recordings import from_base64
from voxtral_worker.engine.dialogue import Dialogue, Said, dialogue
from voxtral_worker.engine.request import Sampling
from voxtral_worker.engine.tool_options import read_call_id
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.server.openai.errors import BadOption, unsupported, within
from voxtral_worker.server.openai.options import Options, gathered, wrong
from voxtral_worker.server.openai.tools import TOOL_KEYS, calls_of, schema_of, toolbox_of
from voxtral_worker.sessions.config import MOST_SEED, STOP

MAX_CHARACTERS = 500_000
MAX_MESSAGES = 256
MAX_PARTS = 64
MAX_NEW_TOKENS = 4096
DEFAULT_NEW_TOKENS = 1024
MAX_CHOICES = 4

_KNOWN = (
    "model",
    "messages",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "n",
    "stream",
    "stream_options",
    "response_format",
    *TOOL_KEYS,
)
# What these values ask for happens anyway.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
# Notes and wishes of the caller's, which change no answer of this model.
_NOTES = (
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "prediction",
    "reasoning_effort",
    "service_tier",
    "store",
    "verbosity",
)
_UNSUPPORTED = ("audio", "moderation", "web_search_options")
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True)
class EncodedAudio:
    """A file that is not decoded yet; `param` is how errors name it."""

    param: str
    data: bytes


Part: TypeAlias = str | EncodedAudio


@dataclass(frozen=True)
class ChatRequest:
    """`said` is turns as `Dialogue` has them; `choices` are made of it."""

    model: object
    said: tuple[Said[Part], ...]
    system_prompt: str | None
    sampling: Sampling
    tools: Toolbox
    choices: int
    streams: bool
    tells_usage: bool


_STOP = TypeAdapter(Annotated[tuple[str, ...], STOP])


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """The request that a body asks for. Raises one BadOption that names all that is wrong."""
    return gathered(body, "", _read)


def _read(options: Options) -> ChatRequest:
    # Functions that must not be called change nothing.
    uncalled = ["functions"] if options.get("function_call") == "none" else []
    options.only((*_KNOWN, *_NOTES, *uncalled), harmless=_HARMLESS, unsupported_keys=_UNSUPPORTED)
    said = [Said[Part]("user", ())]
    with options.reporting():
        said = read_messages(options, "messages")
    meant = meaning(options, "messages", said)
    streams = options.flag("stream")
    return ChatRequest(
        options.get("model"),
        meant.turns,
        meant.system,
        _sampling(options),
        toolbox_of(options),
        options.whole("n", 1, MAX_CHOICES) or 1,
        streams,
        _tells_usage(options, streams),
    )


def meaning(options: Options, key: str, said: list[Said[Part]]) -> Dialogue[Part]:
    """What messages mean. Raises BadOption, or reports it, for a call that has not one result."""
    with options.reporting():
        try:
            return dialogue(said)
        except BadInput as error:
            raise within(options.name(key), error) from None
    return dialogue([])


def _sampling(options: Options) -> Sampling:
    defaults = Sampling()
    temperature = options.number("temperature", 0, 2)
    top_p = options.number("top_p", 0, 1)
    old = options.whole("max_tokens", 1, MAX_NEW_TOKENS)
    new = options.whole("max_completion_tokens", 1, MAX_NEW_TOKENS)
    if old is not None and new is not None:
        told = "send max_completion_tokens or max_tokens, not both"
        options.report(BadOption("max_tokens", told))
    return Sampling(
        defaults.temperature if temperature is None else temperature,
        defaults.top_p if top_p is None else top_p,
        old or new or DEFAULT_NEW_TOKENS,
        _stop(options),
        options.whole("seed", -MOST_SEED, MOST_SEED),
        schema_of(options, "response_format"),
    )


def _stop(options: Options) -> tuple[str, ...]:
    value = options.get("stop")
    if value is None or value == "":
        return ()
    try:
        return _STOP.validate_python(value)
    except ValidationError:
        options.report(wrong(options.name("stop"), value, STOP.words))
    return ()


def _tells_usage(options: Options, streams: bool) -> bool:
    inner = options.inner("stream_options")
    if inner is None:
        return False
    if not streams:
        told = "stream_options goes with stream: true only"
        options.report(BadOption("stream_options", told))
    inner.only(("include_usage", "include_obfuscation"))
    inner.flag("include_obfuscation")
    return inner.flag("include_usage")


def read_messages(
    options: Options, key: str, among: list[object] | None = None
) -> list[Said[Part]]:
    """The messages under a key, or those `among` them that are not None or read already.

    Raises BadOption, or reports it.
    """
    value = options.get(key)
    if not isinstance(value, list) or not value or len(value) > MAX_MESSAGES:
        raise wrong(key, value, f"a list of 1 to {MAX_MESSAGES} messages")
    said: list[Said[Part]] = []
    for index, message in enumerate(value if among is None else among):
        if among is not None and message is None:
            continue
        if isinstance(message, Said):
            said.append(message)
            continue
        with options.reporting():
            said.append(_message(Options.of(message, f"{key}[{index}]", options.offenders)))
    characters = sum(len(part) for each in said for part in each.parts if isinstance(part, str))
    if characters > MAX_CHARACTERS:
        raise BadOption(key, f"{key} has more than {MAX_CHARACTERS} characters")
    return said


def _message(message: Options) -> Said[Part]:
    role = message.get("role")
    if role == "function":
        path = message.name("role")
        raise unsupported(path, f"{path} is 'function': results of tools have the role tool now")
    message.only(
        (
            *("role", "content", "name", "refusal", "id", "type", "status", "phase"),
            *({"assistant": ("tool_calls",), "tool": ("tool_call_id",)}.get(str(role), ())),
        ),
        harmless={"tool_calls": ([],), "function_call": (), "annotations": ([],)},
        unsupported_keys=("audio", "tool_call_id"),
    )
    message.one_of("role", *_ROLES)
    if role is None:
        raise wrong(message.name("role"), None, "one of " + ", ".join(_ROLES))
    parts = _content(message)
    if role == "tool":
        return Said("tool", parts, result_of=_call_id(message))
    refusal = message.text("refusal", MAX_CHARACTERS)
    calls = calls_of(message) if role == "assistant" else ()
    spoken = (*parts, *([refusal] if refusal else []))
    return Said(_ROLES.get(str(role), "user"), spoken, calls)


def _call_id(message: Options) -> str:
    name = message.name("tool_call_id")
    try:
        return read_call_id(message.get("tool_call_id"), name)
    except BadInput as error:
        raise within(name, error) from None


def _content(message: Options) -> tuple[Part, ...]:
    path, value = message.name("content"), message.get("content")
    if value is None:
        return ()
    if isinstance(value, str):
        value = [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise wrong(path, value, "a text, a list of parts, or null")
    if len(value) > MAX_PARTS:
        raise BadOption(path, f"{path} has more than {MAX_PARTS} parts")
    parts: list[Part] = []
    for index, part in enumerate(value):
        with message.reporting():
            inner = Options.of(part, f"{path}[{index}]", message.offenders)
            parts.append(_part(inner, may_be_sound=message.get("role") == "user"))
    return tuple(parts)


def _part(part: Options, *, may_be_sound: bool) -> Part:
    kind = part.get("type")
    match kind:
        case "text" | "input_text" | "output_text":
            part.only(("type", "text", "annotations", "logprobs"))
            return part.text("text", MAX_CHARACTERS) or ""
        case "refusal":
            part.only(("type", "refusal"))
            return part.text("refusal", MAX_CHARACTERS) or ""
        case "input_audio" if may_be_sound:
            part.only(("type", "input_audio"))
            return _audio(part)
        case "audio_url" if may_be_sound:
            part.only(("type", "audio_url"))
            return _linked(part)
    name = part.name("type")
    told = f"{name} is {shown(kind)}, but may be text, and input_audio or audio_url of a user"
    raise unsupported(name, told)


def _audio(part: Options) -> EncodedAudio:
    """The bytes under `input_audio`: OpenAI's object, or a text as Mistral's clients send it."""
    value = part.get("input_audio")
    if isinstance(value, str):
        return _decoded(part.name("input_audio"), value)
    audio = Options.of(value, part.name("input_audio"), part.offenders)
    audio.only(("data", "format"))
    # The bytes themselves say what they are.
    audio.text("format", 64)
    return _decoded(audio.name("data"), audio.get("data"))


def _linked(part: Options) -> EncodedAudio:
    """The bytes of a `data:` address under `audio_url`, which is an object or a text."""
    value, param = part.get("audio_url"), part.name("audio_url")
    if isinstance(value, dict):
        link = Options.of(value, param, part.offenders)
        link.only(("url",))
        value, param = link.get("url"), link.name("url")
    if not isinstance(value, str) or not value[:5].lower() == "data:":
        raise wrong(param, value, "a data: address: this worker fetches nothing for a chat")
    return _decoded(param, value)


def _decoded(param: str, value: object) -> EncodedAudio:
    if not isinstance(value, str) or not value:
        raise wrong(param, value, "base64")
    try:
        return EncodedAudio(param, from_base64(value))
    except BadInput as error:
        raise within(param, error) from None
