"""Reads what a realtime client sends."""

from dataclasses import dataclass

from voxtral_worker.audio.recordings import from_base64
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.json_text import read_json
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.options import Options, wrong

# What each event may have beside type and event_id.
EVENTS: dict[str, tuple[str, ...]] = {
    "session.update": ("session",),
    "input_audio_buffer.append": ("audio",),
    "input_audio_buffer.commit": (),
    "input_audio_buffer.clear": (),
    "conversation.item.create": ("item", "previous_item_id"),
    "conversation.item.retrieve": ("item_id",),
    "conversation.item.delete": ("item_id",),
    "conversation.item.truncate": ("item_id", "content_index", "audio_end_ms"),
    "response.create": ("response",),
    "response.cancel": ("response_id",),
}
# Of OpenAI's, and of connections by WebRTC alone.
WEBRTC_EVENTS = ("output_audio_buffer.clear",)
MAX_ID_CHARACTERS = 512


@dataclass(frozen=True)
class ClientEvent:
    """One event; `audio` is what an append carries."""

    kind: str
    event_id: str | None
    options: Options
    audio: bytes = b""


def event_id_of(text: str) -> tuple[object, str | None]:
    """The JSON of a frame, and the event's id where it has one. Raises BadInput."""
    value = read_json(text, "the event")
    if not isinstance(value, dict):
        raise BadInput("the event must be an object with a type")
    event_id = value.get("event_id")
    is_id = isinstance(event_id, str) and len(event_id) <= MAX_ID_CHARACTERS
    return value, event_id if is_id else None


def read_event(value: object, event_id: str | None) -> ClientEvent:
    """The event of a frame's JSON. Raises BadOption that names what is wrong."""
    options = Options.of(value, "")
    if options.get("event_id") != event_id:
        raise BadOption(
            "event_id", f"event_id must be a text of at most {MAX_ID_CHARACTERS} characters"
        )
    kind = options.get("type")
    if kind in WEBRTC_EVENTS:
        raise unsupported("type", f"{kind}: over a WebSocket the client itself holds the audio")
    if not isinstance(kind, str) or kind not in EVENTS:
        raise BadOption("type", f"there is no event {shown(kind)}", "invalid_event")
    options.only(("type", "event_id", *EVENTS[kind]))
    audio = b""
    # An empty piece of audio says nothing; null and missing ones are no piece.
    if kind == "input_audio_buffer.append" and options.get("audio") != "":
        audio = read_audio(options, "audio")
    return ClientEvent(kind, event_id, options, audio)


def read_audio(options: Options, key: str) -> bytes:
    """Bytes of base64 under a key. Raises BadOption."""
    value = options.get(key)
    if not isinstance(value, str) or not value:
        raise wrong(options.name(key), value, "base64")
    try:
        return from_base64(value)
    except BadInput as error:
        raise BadOption(
            options.name(key), f"{options.name(key)}: {error.message}", "invalid_base64"
        ) from None
