"""The worker's messages as typed events."""

from dataclasses import dataclass
from typing import Any

# The sound of a speech message comes in a binary frame of its own, right after it. The client puts
# it into the message under this key.
SOUND = "sound"


@dataclass(frozen=True)
class Event:
    """One message of the worker; `message` is the whole JSON object as it came."""

    message: dict[str, Any]

    @property
    def turn_id(self) -> str | None:
        """The turn that the event belongs to; None if it belongs to none."""
        turn_id = self.message.get("turn_id")
        return None if turn_id is None else str(turn_id)

    @property
    def request_id(self) -> str | None:
        """The `request_id` of the text that it answers or refuses; None if it is about none."""
        request_id = self.message.get("request_id")
        return None if request_id is None else str(request_id)


@dataclass(frozen=True)
class Delta(Event):
    """A piece of a response; all pieces of a turn joined are its text."""

    text: str


@dataclass(frozen=True)
class Speech(Event):
    """A piece of the speech of a response.

    `text`: the sentence that begins with this piece; empty within a sentence. `sound`: audio in
    the format of the options; empty if a lost connection took it.
    """

    text: str
    sound: bytes
    offset_ms: float
    duration_ms: float
    is_final: bool


@dataclass(frozen=True)
class Response(Event):
    """A whole response, the last event of its turn; `metrics` are in ms.

    After `finish_reason` `tool_calls` the turn continues, and another Response comes.
    """

    text: str
    finish_reason: str | None
    metrics: dict[str, Any]
    usage: dict[str, int]
    source: str | None


@dataclass(frozen=True)
class ToolCall(Event):
    """The model calls a tool. The turn continues once all of its calls have their results."""

    call_id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Partial(Event):
    """A transcript of the speech so far; its first `stable_chars` characters will not change."""

    text: str
    stable_chars: int


@dataclass(frozen=True)
class Transcript(Event):
    """The words of a spoken turn; with an `error` there are none, because transcribing failed."""

    text: str
    error: str | None


@dataclass(frozen=True)
class Status(Event):
    """Something happened to the turn or to the session."""

    status: str


@dataclass(frozen=True)
class Stats(Event):
    """The session's statistics, which answer `get_stats`."""

    stats: dict[str, Any]


@dataclass(frozen=True)
class Heartbeat(Event):
    """A sign that the connection works; `seq` is the number of the worker's last message."""

    seq: int


@dataclass(frozen=True)
class Pong(Event):
    """The answer to `ping`."""


@dataclass(frozen=True)
class Failure(Event):
    """The worker refused something that you sent, or a turn failed."""

    error: str
    code: str
    retry_after_s: float | None


def read_event(message: dict[str, Any]) -> Event:
    """The event of a message. A message of an unknown kind becomes a plain Event."""
    match message:
        case {"type": "text_delta", "text": text}:
            return Delta(message, text)
        case {"type": "text_response", "text": text}:
            return _response(message, text)
        case {"type": "tool_call", "call_id": call_id, "name": name, "arguments": arguments}:
            return ToolCall(message, call_id, name, arguments)
        case {"type": "audio", "text": text}:
            return _speech(message, text)
        case {"type": "transcript_partial", "text": text}:
            return Partial(message, text, message.get("stable_chars", 0))
        case {"type": "transcript", "text": text}:
            return Transcript(message, text, message.get("error"))
        case {"type": "status", "status": status}:
            return Status(message, status)
        case {"type": "status", "stats": stats}:
            return Stats(message, stats)
        case {"type": "heartbeat"}:
            return Heartbeat(message, message.get("seq", 0))
        case {"type": "control", "control_type": "pong"}:
            return Pong(message)
        case {"type": "error", "error": error}:
            return Failure(message, error, message.get("code", ""), message.get("retry_after"))
    return Event(message)


def _speech(message: dict[str, Any], text: str) -> Speech:
    # The sound came in a frame of its own, so it is not part of the message.
    received = {key: value for key, value in message.items() if key != SOUND}
    return Speech(
        received,
        text,
        message.get(SOUND, b""),
        message.get("offset_ms", 0.0),
        message.get("duration_ms", 0.0),
        message.get("final", False),
    )


def _response(message: dict[str, Any], text: str) -> Response:
    # Other servers of the documented API may send the text alone.
    return Response(
        message,
        text,
        message.get("finish_reason"),
        message.get("metrics") or {},
        message.get("usage") or {},
        message.get("source"),
    )
