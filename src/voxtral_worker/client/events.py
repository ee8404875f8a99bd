"""What the worker says, as typed events."""

from dataclasses import dataclass
from typing import Any

# Under this key a message of speech carries the frame that came behind it.
SOUND = "sound"


@dataclass(frozen=True)
class Event:
    """One message of the worker; `message` is the whole of it, as it came."""

    message: dict[str, Any]

    @property
    def turn_id(self) -> str | None:
        """The turn it belongs to, if it belongs to one."""
        turn_id = self.message.get("turn_id")
        return None if turn_id is None else str(turn_id)

    @property
    def request_id(self) -> str | None:
        """The text that it answers or refuses, as `send_text` named it."""
        request_id = self.message.get("request_id")
        return None if request_id is None else str(request_id)


@dataclass(frozen=True)
class Delta(Event):
    """A piece of a response; the pieces of a turn joined are its text."""

    text: str


@dataclass(frozen=True)
class Speech(Event):
    """A piece of a response's speech; `text` is the sentence that begins with it, or empty.

    `sound` is in the format that the options say; empty where a lost connection took it along.
    """

    text: str
    sound: bytes
    offset_ms: float
    duration_ms: float
    is_final: bool


@dataclass(frozen=True)
class Response(Event):
    """A whole response, the last event of its turn; `metrics` is in ms.

    With `finish_reason` `tool_calls` the turn goes on, and another Response comes.
    """

    text: str
    finish_reason: str | None
    metrics: dict[str, Any]
    usage: dict[str, int]
    source: str | None


@dataclass(frozen=True)
class ToolCall(Event):
    """The model calls a tool; its turn goes on once all of its calls have their results."""

    call_id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Partial(Event):
    """What the user seems to be saying; the first `stable_chars` characters stay."""

    text: str
    stable_chars: int


@dataclass(frozen=True)
class Transcript(Event):
    """The words of a spoken turn; with an `error` they could not be found out."""

    text: str
    error: str | None


@dataclass(frozen=True)
class Status(Event):
    """Something happened to the turn or to the session."""

    status: str


@dataclass(frozen=True)
class Stats(Event):
    """The session's statistics, as asked for with `get_stats`."""

    stats: dict[str, Any]


@dataclass(frozen=True)
class Heartbeat(Event):
    """The connection lives; `seq` is the number of the last message of the conversation."""

    seq: int


@dataclass(frozen=True)
class Pong(Event):
    """The answer to `ping`."""


@dataclass(frozen=True)
class Failure(Event):
    """Something was not taken, or a turn failed."""

    error: str
    code: str
    retry_after_s: float | None


def read_event(message: dict[str, Any]) -> Event:
    """The event a message tells; a kind this client does not know is a plain Event."""
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
    # It came in a frame of its own.
    told = {key: value for key, value in message.items() if key != SOUND}
    return Speech(
        told,
        text,
        message.get(SOUND, b""),
        message.get("offset_ms", 0.0),
        message.get("duration_ms", 0.0),
        message.get("final", False),
    )


def _response(message: dict[str, Any], text: str) -> Response:
    # A server of the bare documented API says the text alone.
    return Response(
        message,
        text,
        message.get("finish_reason"),
        message.get("metrics") or {},
        message.get("usage") or {},
        message.get("source"),
    )
