"""Every message of the documented channels: from the wire, and from events to the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from voxtral_worker.engine.tool_options import read_call_id
from voxtral_worker.errors import BadInput, TooLarge, WorkerError, about
from voxtral_worker.json_text import read_json
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS, is_clean_text, is_number, is_whole

CONTROL_TYPES = ("ping", "get_stats", "cancel", "end_turn", "clear_history", "resume", "played")
MAX_REQUEST_ID_CHARACTERS = 256
# The largest whole number that every JSON reader keeps exactly.
MAX_SEQ = 2**53

RequestId: TypeAlias = str | int


# Client to server.


@dataclass(frozen=True)
class TextInput:
    """A text to be answered."""

    text: str
    request_id: RequestId | None = None


@dataclass(frozen=True)
class Control:
    """A command to the session; `last_seq` belongs to `resume`, `turn_id` to `played`."""

    control_type: str
    last_seq: int = 0
    turn_id: str = ""
    played_ms: float = 0.0


@dataclass(frozen=True)
class ConfigUpdate:
    """Options to change; their values are not checked yet."""

    changes: object


@dataclass(frozen=True)
class ToolResult:
    """What a call of a tool came to, as the model will read it."""

    call_id: str
    content: str
    is_error: bool = False


ClientMessage: TypeAlias = TextInput | Control | ConfigUpdate | ToolResult


def parse(text: str) -> ClientMessage:
    """Read one text frame. Raises BadInput, or TooLarge for a text beyond the limit."""
    message = read_json(text, "message")
    if not isinstance(message, dict):
        raise BadInput("message must be a JSON object with a type")
    match message.get("type"):
        case "text_input":
            return _text_input(message)
        case "control":
            return _control(message)
        case "config_update":
            if not isinstance(message.get("config"), dict):
                raise BadInput("config must be an object of options")
            return ConfigUpdate(message["config"])
        case "tool_result":
            return _tool_result(message)
    raise BadInput("type must be one of text_input, control, config_update, tool_result")


def _text_input(message: Mapping[str, Any]) -> TextInput:
    request_id = message.get("request_id")
    is_good_id = request_id is None or is_whole(request_id) or is_clean_text(request_id)
    if not is_good_id or len(str(request_id)) > MAX_REQUEST_ID_CHARACTERS:
        raise BadInput(
            f"request_id must be a text of at most {MAX_REQUEST_ID_CHARACTERS} characters"
        )
    with about(request_id):
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
    control_type, last_seq = message.get("control_type"), message.get("last_seq")
    last_seq = 0 if last_seq is None else last_seq
    if control_type not in CONTROL_TYPES:
        raise BadInput("control_type must be one of " + ", ".join(CONTROL_TYPES))
    if control_type == "resume" and not (is_whole(last_seq) and 0 <= last_seq <= MAX_SEQ):
        raise BadInput(f"last_seq must be a whole number from 0 to {MAX_SEQ}")
    if control_type == "played":
        return _played(message)
    return Control(control_type, last_seq if control_type == "resume" else 0)


def _played(message: Mapping[str, Any]) -> Control:
    turn_id, played_ms = message.get("turn_id"), message.get("played_ms")
    if not isinstance(turn_id, str) or not is_clean_text(turn_id):
        raise BadInput("turn_id must be the text that names a turn")
    if not isinstance(played_ms, int | float) or not is_number(played_ms) or not played_ms >= 0:
        raise BadInput("played_ms must be a number of at least 0")
    return Control("played", turn_id=turn_id, played_ms=min(played_ms, MAX_SEQ))


# Server to client.


def _tool_result(message: Mapping[str, Any]) -> ToolResult:
    call_id = read_call_id(message.get("call_id"), "call_id")
    is_error = message.get("is_error")
    if is_error is not None and not isinstance(is_error, bool):
        raise BadInput("is_error must be true or false")
    if "content" not in message:
        raise BadInput("content is missing; it is a text or any JSON")
    content = message["content"]
    if is_error:
        content = {"error": content}
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TooLarge(f"content has {len(text)} characters, but may have {MAX_TEXT_CHARACTERS}")
    if not is_clean_text(text):
        raise BadInput("content holds half a surrogate pair, which is no character")
    return ToolResult(call_id, text, bool(is_error))


@dataclass(frozen=True)
class Message:
    """What stands beside timestamp and seq; one of the conversation is numbered.

    `sound` goes out as a frame of its own right behind it, once: it is not held for later.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    is_numbered: bool = False
    sound: bytes | None = field(default=None, repr=False)


def message_of(event: events.Event) -> Message | None:
    """An event in the words of this dialect, None where it has none for it.

    What belongs to a turn is numbered.
    """
    match event:
        case events.SpeechStarted(turn_id):
            return _status("speech_started", turn_id)
        case events.SpeechEnded(turn_id):
            return _status("speech_ended", turn_id, _ended(event))
        case events.TurnReopened(turn_id):
            return _status("turn_reopened", turn_id)
        case events.NoSpeech(turn_id):
            return _status("no_speech", turn_id)
        case events.Partial(turn_id, text, stable_chars):
            partial = {"text": text, "stable_chars": stable_chars, "turn_id": turn_id}
            return Message("transcript_partial", partial, is_numbered=True)
        case events.Transcript(turn_id, text, error):
            told = {"text": text, "turn_id": turn_id}
            failed = {} if error is None else {"error": error.message, "code": error.code}
            return Message("transcript", {**told, **failed}, is_numbered=True)
        case events.Accepted(turn_id, tag):
            return _status("processing", turn_id, _asked(tag))
        case events.Delta(turn_id, text, tag):
            delta = {"text": text, "turn_id": turn_id, **_asked(tag)}
            return Message("text_delta", delta, is_numbered=True)
        case events.CallMade(turn_id, _, call, tag):
            made = {
                "turn_id": turn_id,
                "call_id": call.call_id,
                "name": call.name,
                "arguments": read_json(call.arguments, "the arguments"),
                **_asked(tag),
            }
            return Message("tool_call", made, is_numbered=True)
        case events.CallBegun() | events.CallDelta():
            # A call is told once it is whole: nobody acts on half of one.
            return None
        case events.HistoryTrimmed(turn_id, exchanges):
            return _status("history_trimmed", turn_id, {"exchanges": exchanges})
        case events.Stopped(None):
            return Message("status", {"status": "cancelled", "turn_id": None})
        case events.Stopped(turn_id, why):
            return _status(_STOPPED[why], turn_id)
        case events.Answered():
            return Message("text_response", _answered(event), is_numbered=True)
        case events.Spoken():
            return Message("audio", _spoken(event), is_numbered=True, sound=event.data)
        case events.Failed(turn_id, error, tag):
            failed = _error(error, {"turn_id": turn_id}, tag)
            return Message("error", failed, is_numbered=True)
        case events.Refused(error):
            return Message("error", _error(error, {}, error.about))
        case events.HistoryCleared():
            return _status("history_cleared")
        case events.ConfigChanged(config):
            return _status("config_updated", None, {"config": config.as_dict()})
        case events.Draining():
            return _status("draining")
        case events.Expired():
            return _status("session_expired")


def to_wire(message: Message, timestamp: float, seq: int | None = None) -> str:
    """One JSON text frame; `timestamp` in Unix seconds."""
    number = {} if seq is None else {"seq": seq}
    wire = {"type": message.kind, **message.fields, "timestamp": timestamp, **number}
    return json.dumps(wire, ensure_ascii=False)


_STOPPED = {events.Why.SPOKEN_OVER: "interrupted", events.Why.CANCELLED: "cancelled"}


def _status(
    status: str, turn_id: str | None = None, extra: Mapping[str, Any] | None = None
) -> Message:
    turn = {} if turn_id is None else {"turn_id": turn_id}
    fields = {"status": status, **turn, **(extra or {})}
    return Message("status", fields, is_numbered=turn_id is not None)


def _ended(ended: events.SpeechEnded) -> dict[str, Any]:
    if ended.completeness is None:
        return {"reason": ended.reason}
    return {"reason": ended.reason, "completeness": round(ended.completeness, 3)}


def _answered(answered: events.Answered) -> dict[str, Any]:
    usage = answered.usage
    return {
        "text": answered.text,
        "turn_id": answered.turn_id,
        "source": answered.source,
        "finish_reason": answered.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "metrics": dict(answered.metrics),
        **_asked(answered.tag),
    }


def _spoken(piece: events.Spoken) -> dict[str, Any]:
    return {
        "turn_id": piece.turn_id,
        "offset_ms": round(piece.offset_ms, 3),
        "duration_ms": round(piece.duration_ms, 3),
        "text": piece.text,
        **({"final": True} if piece.is_final else {}),
    }


def _error(error: WorkerError, turn: Mapping[str, str], tag: events.Tag) -> dict[str, Any]:
    told: dict[str, Any] = {"error": error.message, "code": error.code, **turn}
    if error.retry_after_s is not None:
        told["retry_after"] = round(error.retry_after_s, 3)
    return told | _asked(tag)


def _asked(tag: events.Tag) -> dict[str, Any]:
    """The tag of a turn is here what its client called the text that asks for it."""
    return {} if tag is None else {"request_id": tag}
