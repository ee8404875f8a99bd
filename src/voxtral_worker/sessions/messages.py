"""Every message of the two WebSockets, from the wire and to the wire.

Conversation messages carry a sequence number; the others do not.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.errors import BadInput, TooLarge, WorkerError
from voxtral_worker.sessions.config import (
    MAX_TEXT_CHARACTERS,
    is_clean_text,
    is_number,
    is_whole,
)

CONTROL_TYPES = ("ping", "get_stats", "cancel", "end_turn", "clear_history", "resume")
MAX_REQUEST_ID_CHARACTERS = 256

RequestId: TypeAlias = str | int


# Client to server.


@dataclass(frozen=True)
class TextInput:
    """A text to be answered."""

    text: str
    request_id: RequestId | None = None


@dataclass(frozen=True)
class Control:
    """A command to the session; `last_seq` belongs to `resume`."""

    control_type: str
    last_seq: int = 0


@dataclass(frozen=True)
class ConfigUpdate:
    """Options to change; their values are not checked yet."""

    changes: object


ClientMessage: TypeAlias = TextInput | Control | ConfigUpdate


def parse(text: str) -> ClientMessage:
    """Read one text frame. Raises BadInput, or TooLarge for a text beyond the limit."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("message is not JSON") from None
    if not isinstance(message, dict):
        raise BadInput("message must be a JSON object with a type")
    if not is_number(message.get("timestamp", 0)):
        raise BadInput("timestamp must be a number of seconds")
    match message.get("type"):
        case "text_input":
            return _text_input(message)
        case "control":
            return _control(message)
        case "config_update":
            if not isinstance(message.get("config"), dict):
                raise BadInput("config must be an object of options")
            return ConfigUpdate(message["config"])
    raise BadInput("type must be one of text_input, control, config_update")


@contextmanager
def asked_as(request_id: RequestId | None) -> Iterator[None]:
    """Names the request in every WorkerError that refuses it."""
    try:
        yield
    except WorkerError as error:
        error.request_id = request_id
        raise


def _text_input(message: Mapping[str, Any]) -> TextInput:
    request_id = message.get("request_id")
    is_good_id = request_id is None or is_whole(request_id) or is_clean_text(request_id)
    if not is_good_id or len(str(request_id)) > MAX_REQUEST_ID_CHARACTERS:
        raise BadInput(
            f"request_id must be a text of at most {MAX_REQUEST_ID_CHARACTERS} characters"
        )
    with asked_as(request_id):
        return TextInput(_checked_text(message.get("text")), request_id)


def _checked_text(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise BadInput("text must be a text that is not empty")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TooLarge(f"text has {len(text)} characters, but may have {MAX_TEXT_CHARACTERS}")
    if not is_clean_text(text):
        raise BadInput("text holds half a surrogate pair, which is no character")
    return text


def _control(message: Mapping[str, Any]) -> Control:
    control_type, last_seq = message.get("control_type"), message.get("last_seq", 0)
    if control_type not in CONTROL_TYPES:
        raise BadInput("control_type must be one of " + ", ".join(CONTROL_TYPES))
    if control_type == "resume" and not (is_whole(last_seq) and last_seq >= 0):
        raise BadInput("last_seq must be a whole number of at least 0")
    return Control(control_type, last_seq if control_type == "resume" else 0)


# Server to client.


@dataclass(frozen=True)
class Heard:
    """A spoken turn in ms since the session's audio began, and its sound once it is over."""

    start_ms: int
    end_ms: int | None = None
    audio: Audio | None = None


@dataclass(frozen=True)
class Status:
    """What has happened in the session; one of a turn names it and is numbered.

    `heard` is for those who say it in another dialect, and not on the wire.
    """

    kind: ClassVar[str] = "status"
    status: str
    turn_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    heard: Heard | None = field(default=None, compare=False, repr=False)

    @property
    def is_numbered(self) -> bool:
        """Whether it is part of the conversation."""
        return self.turn_id is not None

    def fields(self) -> dict[str, Any]:
        """What stands beside type, timestamp and seq."""
        turn = {} if self.turn_id is None else {"turn_id": self.turn_id}
        return {"status": self.status, **turn, **self.extra}


@dataclass(frozen=True)
class TextDelta:
    """A piece of a response."""

    kind: ClassVar[str] = "text_delta"
    is_numbered: ClassVar[bool] = True
    text: str
    turn_id: str
    request_id: RequestId | None = None

    def fields(self) -> dict[str, Any]:
        """What stands beside type, timestamp and seq."""
        return {"text": self.text, "turn_id": self.turn_id, **_asked(self.request_id)}


@dataclass(frozen=True)
class TextResponse:
    """The whole response; the last message of its turn."""

    kind: ClassVar[str] = "text_response"
    is_numbered: ClassVar[bool] = True
    text: str
    turn_id: str
    source: str
    finish_reason: str
    usage: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    request_id: RequestId | None = None

    def fields(self) -> dict[str, Any]:
        """What stands beside type, timestamp and seq."""
        return {
            "text": self.text,
            "turn_id": self.turn_id,
            "source": self.source,
            "finish_reason": self.finish_reason,
            "usage": dict(self.usage),
            "metrics": dict(self.metrics),
            **_asked(self.request_id),
        }


@dataclass(frozen=True)
class TranscriptPartial:
    """What the user seems to be saying; the first `stable_chars` characters stay."""

    kind: ClassVar[str] = "transcript_partial"
    is_numbered: ClassVar[bool] = True
    text: str
    stable_chars: int
    turn_id: str

    def fields(self) -> dict[str, Any]:
        """What stands beside type, timestamp and seq."""
        return {"text": self.text, "stable_chars": self.stable_chars, "turn_id": self.turn_id}


@dataclass(frozen=True)
class ErrorMessage:
    """What went wrong; one of a turn is numbered, an answer to bad input is not."""

    kind: ClassVar[str] = "error"
    error: WorkerError
    turn_id: str | None = None
    request_id: RequestId | None = None

    @property
    def is_numbered(self) -> bool:
        """Whether it is part of the conversation."""
        return self.turn_id is not None

    def fields(self) -> dict[str, Any]:
        """What stands beside type, timestamp and seq."""
        told: dict[str, Any] = {"error": self.error.message, "code": self.error.code}
        if self.turn_id is not None:
            told["turn_id"] = self.turn_id
        if self.error.retry_after_s is not None:
            told["retry_after"] = round(self.error.retry_after_s, 3)
        return told | _asked(self.request_id)


@dataclass(frozen=True)
class Plain:
    """A message of the connection: `connected`, `pong`, heartbeat, stats."""

    is_numbered: ClassVar[bool] = False
    kind: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """What stands beside type and timestamp."""
        return dict(self.extra)


ServerMessage: TypeAlias = (
    Status | TextDelta | TextResponse | TranscriptPartial | ErrorMessage | Plain
)


def to_wire(message: ServerMessage, timestamp: float, seq: int | None = None) -> str:
    """One JSON text frame; `timestamp` in Unix seconds."""
    number = {} if seq is None else {"seq": seq}
    wire = {"type": message.kind, **message.fields(), "timestamp": timestamp, **number}
    return json.dumps(wire, ensure_ascii=False)


def _asked(request_id: RequestId | None) -> dict[str, RequestId]:
    return {} if request_id is None else {"request_id": request_id}
