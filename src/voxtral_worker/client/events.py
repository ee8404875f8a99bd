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
    """A whole response, the last event of its turn."""

    text: str
    finish_reason: str | None
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Status(Event):
    """Something happened to the turn or to the session."""

    status: str


@dataclass(frozen=True)
class Failure(Event):
    """Something was not taken, or a turn failed."""

    error: str
    code: str


def read_event(message: dict[str, Any]) -> Event:
    """The event a message tells; a kind this client does not know is a plain Event."""
    match message.get("type"):
        case "text_delta":
            return Delta(message, message["text"])
        case "text_response":
            reason = message.get("finish_reason")
            return Response(message, message["text"], reason, message.get("metrics") or {})
        case "status" if "status" in message:
            return Status(message, message["status"])
        case "error":
            return Failure(message, message["error"], message.get("code", ""))
    return Event(message)
