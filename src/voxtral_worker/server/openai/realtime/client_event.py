"""The events of a realtime client."""

from typing import Annotated, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic_core import PydanticCustomError

from voxtral_worker.errors import BadInput, shown
from voxtral_worker.json_text import read_json
from voxtral_worker.server.openai.errors import BadOption, unsupported
from voxtral_worker.server.openai.parameters import Parameters, anything, read_parameters
from voxtral_worker.server.openai.realtime.item_options import (
    MAX_ID_CHARACTERS,
    AnyItem,
    Base64,
    ItemId,
)
from voxtral_worker.server.openai.realtime.response_options import ResponseOptions
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.values.may import made_of, told, whole
from voxtral_worker.values.model import By, Later
from voxtral_worker.values.reading import is_good

# One hour. No answer is that long.
MAX_AUDIO_MS = 3_600_000
ContentIndex: TypeAlias = Annotated[int, whole(0, 0)]
AudioEnd: TypeAlias = Annotated[int, whole(0, MAX_AUDIO_MS)]
# Events of OpenAI's that only exist over WebRTC.
WEBRTC_EVENTS = ("output_audio_buffer.clear",)


def _event_id(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_ID_CHARACTERS:
        raise BadOption(name, f"{name} must be a text of at most {MAX_ID_CHARACTERS} characters")
    return value


EventId: TypeAlias = Annotated[
    str, made_of(_event_id, {"type": "string", "maxLength": MAX_ID_CHARACTERS})
]
_EVENT_ID = TypeAdapter(EventId)


class ClientEvent(Parameters):
    """Abstract: one event. Errors about it come with its id."""

    event_id: EventId | None = None


class SessionUpdate(ClientEvent):
    """Changes options of the session: all of them or, if one is bad, none."""

    type: Literal["session.update"]
    session: Annotated[object, Later(SessionOptions)]


class InputAudioBufferAppend(ClientEvent):
    """The next piece of the user's audio, in the format of the session."""

    type: Literal["input_audio_buffer.append"]
    audio: Base64


class InputAudioBufferCommit(ClientEvent):
    """Ends the user's turn."""

    type: Literal["input_audio_buffer.commit"]


class InputAudioBufferClear(ClientEvent):
    """Discards the audio of the open turn."""

    type: Literal["input_audio_buffer.clear"]


class ConversationItemCreate(ClientEvent):
    """Adds an item at the end of the conversation."""

    type: Literal["conversation.item.create"]
    item: Annotated[object, Later(AnyItem)]
    previous_item_id: ItemId = None


class ConversationItemRetrieve(ClientEvent):
    """Asks for an item."""

    type: Literal["conversation.item.retrieve"]
    item_id: ItemId


class ConversationItemDelete(ClientEvent):
    """Deletes an item that was not answered yet."""

    type: Literal["conversation.item.delete"]
    item_id: ItemId


class ConversationItemTruncate(ClientEvent):
    """Reports how much of a spoken answer was played, when the client stops playing it."""

    type: Literal["conversation.item.truncate"]
    item_id: ItemId
    # Both are checked after the item: an item that does not exist is the error that counts.
    content_index: Annotated[object, Later(ContentIndex)] = 0
    audio_end_ms: Annotated[object, Later(AudioEnd)]


class ResponseCreate(ClientEvent):
    """Asks for a response."""

    type: Literal["response.create"]
    response: Annotated[object, Later(ResponseOptions)] = None


class ResponseCancel(ClientEvent):
    """Stops the response in progress."""

    type: Literal["response.cancel"]
    response_id: Annotated[object, anything({"type": "string"})] = None


AnyEvent: TypeAlias = (
    SessionUpdate
    | InputAudioBufferAppend
    | InputAudioBufferCommit
    | InputAudioBufferClear
    | ConversationItemCreate
    | ConversationItemRetrieve
    | ConversationItemDelete
    | ConversationItemTruncate
    | ResponseCreate
    | ResponseCancel
)


def _no_event(_: str) -> PydanticCustomError:
    def tell(param: str, kind: object) -> BadOption:
        if kind in WEBRTC_EVENTS:
            why = "over a WebSocket the client itself holds the audio"
            return unsupported(param, f"{kind}: {why}")
        return BadOption(param, f"there is no event {shown(kind)}", "invalid_event")

    return told(tell)


EVENTS: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, By("type", refuse=_no_event)])


def event_id_of(text: str) -> tuple[object, str | None]:
    """The JSON of a frame, and the event's id if it has a usable one. Raises BadInput."""
    value = read_json(text, "the event")
    if not isinstance(value, dict):
        raise BadInput("the event must be an object with a type")
    event_id = value.get("event_id")
    return value, event_id if is_good(_EVENT_ID, event_id) else None


def read_event(value: object) -> AnyEvent:
    """The event of a frame's JSON. Raises BadOption that names all that is wrong."""
    return read_parameters(EVENTS, value)
