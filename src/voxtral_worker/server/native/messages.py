"""Every message of the documented channels: from the wire, and from events to the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import core_schema

from voxtral_worker.engine.tool_options import MAX_CALL_ID, read_call_id
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.json_text import read_json
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS
from voxtral_worker.values.may import (
    Flag,
    May,
    at_least,
    clean_text,
    filled_text,
    made_of,
    not_too_long,
    whole,
)
from voxtral_worker.values.model import By, Values
from voxtral_worker.values.reading import is_good, read

MAX_REQUEST_ID_CHARACTERS = 256
# The largest whole number that every JSON reader keeps exactly.
MAX_SEQ = 2**53

RequestId: TypeAlias = str | int


# Client to server. Other keys of a message, such as a timestamp, are ignored.
_MESSAGE = ConfigDict(extra="ignore")


_REQUEST_ID = May(
    f"a text or a whole number of at most {MAX_REQUEST_ID_CHARACTERS} characters",
    core_schema.union_schema(
        [
            core_schema.str_schema(max_length=MAX_REQUEST_ID_CHARACTERS, strict=True),
            core_schema.int_schema(
                gt=-(10 ** (MAX_REQUEST_ID_CHARACTERS - 1)),
                lt=10**MAX_REQUEST_ID_CHARACTERS,
                strict=True,
            ),
        ]
    ),
    {"type": ["string", "integer"], "maxLength": MAX_REQUEST_ID_CHARACTERS},
)


class TextInput(Values):
    """A text to be answered."""

    model_config = _MESSAGE
    type: Literal["text_input"] = "text_input"
    text: Annotated[str, filled_text(MAX_TEXT_CHARACTERS)]
    request_id: Annotated[RequestId, _REQUEST_ID] | None = Field(
        default=None, description="Comes back in every message of the answer."
    )


class Control(Values):
    """A command to the session."""

    model_config = _MESSAGE
    type: Literal["control"] = "control"
    control_type: Literal["ping", "get_stats", "cancel", "end_turn", "clear_history"]


class Resume(Values):
    """Asks for what came after a number."""

    model_config = _MESSAGE
    type: Literal["control"] = "control"
    control_type: Literal["resume"] = "resume"
    last_seq: Annotated[int, whole(0, MAX_SEQ)] = 0


class Played(Values):
    """Says how much of a turn's speech was heard."""

    model_config = _MESSAGE
    type: Literal["control"] = "control"
    control_type: Literal["played"] = "played"
    turn_id: Annotated[str, clean_text("the text that names a turn")]
    played_ms: Annotated[float, at_least(0, MAX_SEQ)]


class ConfigUpdate(Values):
    """Options to change; their values are not checked yet."""

    model_config = _MESSAGE
    type: Literal["config_update"] = "config_update"
    config: Annotated[
        dict[str, Any],
        May("an object of options", core_schema.is_instance_schema(dict), {"type": "object"}),
    ]


class ToolResult(Values):
    """What a call of a tool came to; `content` becomes the text that the model will read."""

    model_config = _MESSAGE
    type: Literal["tool_result"] = "tool_result"
    call_id: Annotated[
        str,
        made_of(
            read_call_id,
            {"type": "string", "minLength": 1, "maxLength": MAX_CALL_ID},
            "the id of a call",
        ),
    ]
    content: Annotated[
        Any | None,
        May("a text or any JSON", core_schema.any_schema(), {"description": "Any JSON."}),
    ]
    is_error: Flag = Field(default=False, description="The tool failed.")

    @model_validator(mode="after")
    def _as_text(self) -> "ToolResult":
        content = {"error": self.content} if self.is_error else self.content
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        not_too_long(text, MAX_TEXT_CHARACTERS, "content")
        return self.model_copy(update={"content": text})


AnyControl: TypeAlias = Control | Resume | Played
ClientMessage: TypeAlias = TextInput | AnyControl | ConfigUpdate | ToolResult
MESSAGES: TypeAdapter[ClientMessage] = TypeAdapter(
    Annotated[
        TextInput | Annotated[AnyControl, By("control_type")] | ConfigUpdate | ToolResult,
        By("type"),
    ]
)
CONTROL_TYPES = tuple(
    name
    for kind in get_args(AnyControl)
    for name in get_args(kind.model_fields["control_type"].annotation)
)
_REQUEST_IDS = TypeAdapter(Annotated[RequestId, _REQUEST_ID])


def parse(text: str) -> ClientMessage:
    """Read one text frame. Raises BadInput, or TooLarge for a text beyond the limit."""
    message = read_json(text, "message")
    if not isinstance(message, dict):
        raise BadInput("message must be a JSON object with a type")
    try:
        return read(MESSAGES, message)
    except BadInput as error:
        if message.get("type") == "text_input" and is_good(_REQUEST_IDS, message.get("request_id")):
            error.about = message["request_id"]
        raise


# Server to client.


@dataclass(frozen=True)
class Message:
    """A message without its timestamp and seq. Messages of the conversation are numbered.

    `sound` is sent once, as a frame of its own right behind the message. It is not held for a
    resume.
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
            # A call is sent once it is whole: a client cannot act on half of one.
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
