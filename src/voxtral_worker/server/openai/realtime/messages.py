"""Reads the items and the wishes for a response that a realtime client sends."""

from collections.abc import Callable
from dataclasses import dataclass

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.dialogue import Said
from voxtral_worker.engine.tool_options import read_call, read_call_id
from voxtral_worker.engine.tools import NO_TOOLS, Toolbox, ToolResult
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.server.openai.errors import unsupported, within
from voxtral_worker.server.openai.options import Options, wrong
from voxtral_worker.server.openai.realtime.client_event import MAX_ID_CHARACTERS, read_audio
from voxtral_worker.server.openai.realtime.items import Item, new_id
from voxtral_worker.server.openai.realtime.session_options import most_tokens, read_modalities
from voxtral_worker.server.openai.tools import TOOL_KEYS, toolbox_of
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS

MAX_PARTS = 64
MAX_INPUT_ITEMS = 64
TOOL_ITEMS = ("function_call", "function_call_output")
MAX_METADATA = 16


@dataclass(frozen=True)
class Wishes:
    """What a response has of its own; None: as the session.

    `context` is answered in place of the conversation; without `joins` the answer is no part
    of it.
    """

    instructions: str | None = None
    max_output_tokens: int | str | None = None
    metadata: dict[str, str] | None = None
    context: tuple[Said[str | Audio], ...] | None = None
    joins: bool = True
    tools: Toolbox | None = None
    speaks: bool | None = None


def read_response(
    options: Options,
    decode: Callable[[bytes], Audio],
    refer: Callable[[object], tuple[str, tuple[str, ...]]],
    tools: Toolbox = NO_TOOLS,
) -> Wishes:
    """The wishes of a `response.create`. Raises BadOption, or BadAudio.

    `refer` finds the role and the words of an item by its id; `tools` are the session's.
    """
    options.only(
        (*_TAKEN, *TOOL_KEYS),
        harmless={},
        unsupported_keys=("modalities",),
    )
    most = None if options.get("max_output_tokens") is None else most_tokens(options)
    return Wishes(
        options.text("instructions", MAX_TEXT_CHARACTERS),
        most,
        _metadata(options),
        _context(options, decode, refer),
        options.one_of("conversation", "auto", "none") != "none",
        _tools(options, tools),
        read_modalities(options),
    )


def _tools(options: Options, tools: Toolbox) -> Toolbox | None:
    """What this response offers, where that is not what the session does."""
    has_own = any(options.get(key) is not None for key in TOOL_KEYS)
    return toolbox_of(options, tools) if has_own else None


# Of these, audio, prompt and reasoning change no text of this model.
_TAKEN = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "conversation",
    "input",
    "output_modalities",
    "audio",
    "prompt",
    "reasoning",
)


def _context(
    options: Options,
    decode: Callable[[bytes], Audio],
    refer: Callable[[object], tuple[str, tuple[str, ...]]],
) -> tuple[Said[str | Audio], ...] | None:
    items = options.get("input")
    if items is None:
        return None
    if not isinstance(items, list) or len(items) > MAX_INPUT_ITEMS:
        raise wrong(options.name("input"), items, f"a list of at most {MAX_INPUT_ITEMS} items")
    said: list[Said[str | Audio]] = []
    for index, value in enumerate(items):
        with options.reporting():
            item = Options.of(value, f"{options.name('input')}[{index}]", options.offenders)
            if item.get("type") == "item_reference":
                item.only(("type", "id"))
                said.append(Said[str | Audio](*refer(item.get("id"))))
                continue
            said.append(read_item(item, decode)[1])
    return tuple(said)


def read_item(options: Options, decode: Callable[[bytes], Audio]) -> tuple[Item, Said[str | Audio]]:
    """An item, and what it says as the engine takes it. Raises BadOption, or BadAudio.

    `developer` is another name of `system`; content may be a text, or nothing.
    """
    kind = options.get("type")
    if kind in TOOL_ITEMS:
        return _tool_item(options, str(kind))
    if kind not in ("message", None):
        why = "items may be messages, function_call and function_call_output"
        told = f"{options.name('type')} is {shown(kind)}, but {why}"
        raise unsupported(options.name("type"), told)
    options.only(("type", "role", "content", "id", "phase"), harmless=_STATES)
    role = options.one_of("role", "user", "assistant", "system", "developer")
    if role is None:
        raise wrong(options.name("role"), options.get("role"), "user, assistant or system")
    role = "system" if role == "developer" else role
    content = options.get("content")
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list) or len(content) > MAX_PARTS:
        told = f"a text, or a list of at most {MAX_PARTS} parts"
        raise wrong(options.name("content"), content, told)
    seen, parts = [], []
    for index, value in enumerate(content):
        with options.reporting():
            path = f"{options.name('content')}[{index}]"
            part = _part(Options.of(value, path, options.offenders), role, decode)
            seen.append(_seen(part, role))
            # A text of blanks is seen, and says nothing.
            if isinstance(part, Audio) or part.strip():
                parts.append(part)
    item_id = options.text("id", MAX_ID_CHARACTERS) or new_id("item")
    return Item(item_id, role, seen, key=item_id), Said(role, tuple(parts))


def _tool_item(options: Options, kind: str) -> tuple[Item, Said[str | Audio]]:
    """A call that was made, or the result of one."""
    item_id = options.text("id", MAX_ID_CHARACTERS) or new_id("item")
    try:
        if kind == "function_call":
            options.only(("type", "id", "call_id", "name", "arguments"), harmless=_STATES)
            call = read_call(
                options.get("call_id"), options.get("name"), options.get("arguments"), options.path
            )
            return Item(item_id, "assistant", call=call), Said("assistant", (), (call,))
        options.only(("type", "id", "call_id", "output"), harmless=_STATES)
        call_id = read_call_id(options.get("call_id"), options.name("call_id"))
    except BadInput as error:
        raise within(options.path, error) from None
    output = options.text("output", MAX_TEXT_CHARACTERS) or ""
    item = Item(item_id, "tool", result=ToolResult(call_id, output))
    return item, Said("tool", (output,), result_of=call_id)


_STATES: dict[str, tuple[object, ...]] = {
    "object": ("realtime.item",),
    "status": ("completed", "incomplete", "in_progress"),
}


def _part(part: Options, role: str, decode: Callable[[bytes], Audio]) -> str | Audio:
    kind = part.get("type")
    match kind:
        case "input_text" | "output_text" | "text":
            part.only(("type", "text", "annotations", "logprobs"))
            return part.text("text", MAX_TEXT_CHARACTERS) or ""
        case "output_audio" | "audio" if role == "assistant":
            # Of what was spoken once, the words.
            part.only(("type", "audio", "transcript", "format"))
            return part.text("transcript", MAX_TEXT_CHARACTERS) or ""
        case "input_audio" if role == "user":
            part.only(("type", "audio", "transcript", "format"))
            if not part.get("audio") and part.get("transcript"):
                return part.text("transcript", MAX_TEXT_CHARACTERS) or ""
            return decode(read_audio(part, "audio"))
    kinds = {"user": "input_text or input_audio", "assistant": "output_text"}
    name = part.name("type")
    may_be = kinds.get(role, "input_text")
    raise unsupported(name, f"{name} is {shown(kind)}, but may be {may_be}")


def _seen(part: str | Audio, role: str) -> dict[str, object]:
    if isinstance(part, Audio):
        return {"type": "input_audio", "transcript": None}
    return {"type": "output_text" if role == "assistant" else "input_text", "text": part}


def _metadata(options: Options) -> dict[str, str] | None:
    metadata = options.inner("metadata")
    if metadata is None:
        return None
    is_good = len(metadata.values) <= MAX_METADATA and all(
        len(key) <= 64 and isinstance(value, str) and len(value) <= 512
        for key, value in metadata.values.items()
    )
    if not is_good:
        raise wrong(metadata.path, metadata.values, "at most 16 texts under short names")
    return dict(metadata.values)
