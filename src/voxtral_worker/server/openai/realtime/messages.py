"""Reads the items and the wishes for a response that a realtime client sends."""

from collections.abc import Callable
from dataclasses import dataclass

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.server.openai.errors import unsupported
from voxtral_worker.server.openai.options import Options, wrong
from voxtral_worker.server.openai.realtime.client_event import MAX_ID_CHARACTERS, read_audio
from voxtral_worker.server.openai.realtime.items import Item, new_id
from voxtral_worker.server.openai.realtime.session_options import most_tokens
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS

MAX_PARTS = 64
MAX_METADATA = 16


@dataclass(frozen=True)
class Wishes:
    """What a response has of its own; None: as the session."""

    instructions: str | None = None
    max_output_tokens: int | str | None = None
    metadata: dict[str, str] | None = None


def read_response(options: Options | None) -> Wishes:
    """The wishes of a `response.create`. Raises BadOption."""
    if options is None:
        return Wishes()
    options.only(
        ("instructions", "max_output_tokens", "metadata"),
        harmless={
            "output_modalities": (["text"],),
            "conversation": ("auto",),
            "tools": ([],),
            "tool_choice": ("auto", "none"),
            "parallel_tool_calls": (True, False),
        },
        unsupported_keys=("audio", "input", "prompt", "reasoning", "modalities"),
    )
    most = None if options.get("max_output_tokens") is None else most_tokens(options)
    instructions = options.text("instructions", MAX_TEXT_CHARACTERS)
    return Wishes(instructions, most, _metadata(options))


def read_item(
    options: Options, decode: Callable[[bytes], Audio]
) -> tuple[Item, tuple[str | Audio, ...]]:
    """A message, with its parts as the engine takes them. Raises BadOption, or BadAudio."""
    if options.get("type") != "message":
        raise unsupported(options.name("type"), "items may be messages only")
    options.only(("type", "role", "content", "id"), harmless=_STATES)
    role = options.one_of("role", "user", "assistant", "system")
    if role == "system":
        raise unsupported(
            options.name("role"), "system messages are not supported: set session.instructions"
        )
    if role is None:
        raise wrong(options.name("role"), None, "user or assistant")
    content = options.get("content")
    if not isinstance(content, list) or not 0 < len(content) <= MAX_PARTS:
        raise wrong(options.name("content"), content, f"a list of 1 to {MAX_PARTS} parts")
    shown, parts = [], []
    for index, value in enumerate(content):
        part = Options.of(value, f"{options.name('content')}[{index}]")
        parts.append(_part(part, role, decode))
        shown.append(_shown(parts[-1], role))
    item_id = options.text("id", MAX_ID_CHARACTERS) or new_id("item")
    return Item(item_id, role, shown, key=item_id), tuple(parts)


_STATES: dict[str, tuple[object, ...]] = {
    "object": ("realtime.item",),
    "status": ("completed", "incomplete", "in_progress"),
}


def _part(part: Options, role: str, decode: Callable[[bytes], Audio]) -> str | Audio:
    kinds = ("input_text", "input_audio") if role == "user" else ("output_text",)
    kind = part.get("type")
    if kind not in kinds:
        raise unsupported(part.name("type"), f"{part.name('type')} may be {' or '.join(kinds)}")
    if kind == "input_audio":
        part.only(("type", "audio"), unsupported_keys=("transcript",))
        return decode(read_audio(part, "audio"))
    part.only(("type", "text"))
    text = part.text("text", MAX_TEXT_CHARACTERS)
    if not text or not text.strip():
        raise wrong(part.name("text"), text, "a text that is not empty")
    return text


def _shown(part: str | Audio, role: str) -> dict[str, object]:
    if isinstance(part, Audio):
        return {"type": "input_audio", "transcript": None}
    return {"type": "input_text" if role == "user" else "output_text", "text": part}


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
