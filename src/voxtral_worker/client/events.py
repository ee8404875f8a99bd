"""What the worker says, as typed events."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One message of the worker; `message` is the whole of it, as it came."""

    message: dict[str, Any]

    @property
    def turn_id(self) -> str | None:
        """The turn it belongs to, if it belongs to one."""
        turn_id = self.message.get("turn_id")
        return None if turn_id is None else str(turn_id)


@dataclass(frozen=True)
class Delta(Event):
    """A piece of a response; the pieces of a turn joined are its text."""

    text: str


@dataclass(frozen=True)
class Response(Event):
    """A whole response, the last event of its turn; `metrics` is in ms."""

    text: str
    finish_reason: str | None
    metrics: dict[str, Any]
    usage: dict[str, int]
    source: str | None


@dataclass(frozen=True)
class Partial(Event):
    """What the user seems to be saying; the first `stable_chars` characters stay."""

    text: str
    stable_chars: int


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
        case {"type": "transcript_partial", "text": text}:
            return Partial(message, text, message.get("stable_chars", 0))
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
