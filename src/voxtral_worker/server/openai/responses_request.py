"""Reads the parameters of a call of the Responses API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voxtral_worker.engine.dialogue import Said
from voxtral_worker.engine.request import AnswerSchema, Sampling
from voxtral_worker.engine.tool_options import read_call, read_call_id
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.server.openai.chat_request import (
    DEFAULT_NEW_TOKENS,
    MAX_CHARACTERS,
    MAX_NEW_TOKENS,
    Part,
    meaning,
    read_messages,
)
from voxtral_worker.server.openai.errors import unsupported, within
from voxtral_worker.server.openai.options import Options, gathered, wrong
from voxtral_worker.server.openai.tools import TOOL_KEYS, schema_of, toolbox_of

_KNOWN = (
    "model",
    "input",
    "instructions",
    "temperature",
    "top_p",
    "max_output_tokens",
    "metadata",
    "stream",
    "stream_options",
    "text",
    *TOOL_KEYS,
)
_HARMLESS: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "top_logprobs": (0,),
}
# Notes and wishes of the caller's, which change no answer of this model.
_NOTES = (
    "include",
    "max_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "truncation",
    "user",
)
_UNSUPPORTED = ("moderation", "prompt")
# Of histories: what the model thought is not told again.
_SILENT_ITEMS = ("reasoning",)


@dataclass(frozen=True)
class ResponsesRequest:
    """`said` is turns as `Dialogue` has them; `form` is the text's form as it was asked for."""

    model: object
    said: tuple[Said[Part], ...]
    system_prompt: str | None
    sampling: Sampling
    tools: Toolbox
    form: dict[str, Any]
    instructions: str | None
    metadata: dict[str, Any]
    streams: bool


def read_responses(body: Mapping[str, Any]) -> ResponsesRequest:
    """The request that a body asks for. Raises one BadOption that names all that is wrong."""
    return gathered(body, "", _read)


def _read(options: Options) -> ResponsesRequest:
    _refuse_stored(options)
    options.only(
        (*_KNOWN, *_NOTES, *_STORED),
        harmless=_HARMLESS,
        unsupported_keys=_UNSUPPORTED,
    )
    said: list[Said[Part]] = []
    with options.reporting():
        said = _input(options)
    instructions = options.text("instructions", MAX_CHARACTERS)
    meant = meaning(options, "input", [Said[Part]("system", (instructions or "",)), *said])
    form, schema = _form(options)
    if (streaming := options.inner("stream_options")) is not None:
        streaming.only(("include_obfuscation",))
    metadata = options.inner("metadata")
    return ResponsesRequest(
        options.get("model"),
        meant.turns,
        meant.system,
        _sampling(options, schema),
        toolbox_of(options),
        form,
        instructions,
        {} if metadata is None else dict(metadata.values),
        options.flag("stream"),
    )


# What goes on from a response that was stored.
_STORED = ("previous_response_id", "conversation")


def _refuse_stored(options: Options) -> None:
    for key in _STORED:
        if options.get(key) is not None:
            told = f"{key}: this worker stores no responses; send the whole conversation as input"
            options.report(unsupported(key, told))


def _input(options: Options) -> list[Said[Part]]:
    value = options.get("input")
    if isinstance(value, str):
        return [Said("user", (options.text("input", MAX_CHARACTERS) or "",))]
    if not isinstance(value, list):
        return read_messages(options, "input")
    spoken: list[object] = []
    for index, item in enumerate(value):
        path = f"input[{index}]"
        kind = item.get("type") if isinstance(item, dict) else None
        if kind in (None, "message"):
            spoken.append(item)
        elif kind in ("function_call", "function_call_output"):
            spoken.append(_tool_item(Options(item, path, options.offenders), str(kind)))
        else:
            spoken.append(None)
            if kind not in _SILENT_ITEMS:
                why = "items may be messages, function_call and function_call_output"
                told = f"{path}.type is {shown(kind)}, but {why}"
                options.report(unsupported(f"{path}.type", told))
    return read_messages(options, "input", spoken)


def _tool_item(item: Options, kind: str) -> Said[Part] | None:
    """A call, or the result of one, as a message."""
    with item.reporting():
        try:
            if kind == "function_call":
                item.only(("type", "id", "call_id", "name", "arguments", "status", "namespace"))
                call = read_call(
                    item.get("call_id"), item.get("name"), item.get("arguments"), item.path
                )
                return Said("assistant", (), (call,))
            item.only(("type", "id", "call_id", "output", "status"))
            call_id = read_call_id(item.get("call_id"), item.name("call_id"))
            return Said("tool", (_output(item),), result_of=call_id)
        except BadInput as error:
            raise within(item.path, error) from None
    return None


def _output(item: Options) -> str:
    """The result of a call: a text, or a list of parts that are texts."""
    value = item.get("output")
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in value]
        whole = [text for text in texts if isinstance(text, str)]
        if len(whole) == len(texts):
            joined = Options({"output": "".join(whole)}, item.path, item.offenders)
            return joined.text("output", MAX_CHARACTERS) or ""
        raise wrong(item.name("output"), value, "a text, or a list of parts that are texts")
    return item.text("output", MAX_CHARACTERS) or ""


def _form(options: Options) -> tuple[dict[str, Any], AnswerSchema | None]:
    """The form of the text, as it was asked for and as the engine takes it."""
    plain: dict[str, Any] = {"type": "text"}
    text = options.inner("text")
    if text is None:
        return plain, None
    text.only(("format", "verbosity"))
    form = text.inner("format")
    if form is None or form.get("type") is None:
        return plain, None
    return dict(form.values), schema_of(text, "format")


def _sampling(options: Options, schema: AnswerSchema | None) -> Sampling:
    defaults = Sampling()
    temperature = options.number("temperature", 0, 2)
    top_p = options.number("top_p", 0, 1)
    return Sampling(
        defaults.temperature if temperature is None else temperature,
        defaults.top_p if top_p is None else top_p,
        options.whole("max_output_tokens", 1, MAX_NEW_TOKENS) or DEFAULT_NEW_TOKENS,
        schema=schema,
    )
