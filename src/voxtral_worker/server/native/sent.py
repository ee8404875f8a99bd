"""Every message that a worker sends on its sockets, as JSON Schema.

Messages are made on the way of every token, where nothing checks them. So they are described by
hand here, and the tests hold each message of a running worker against these schemas.
"""

from voxtral_worker.engine.stops import MAX_STOPS
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.values.described import whole_of
from voxtral_worker.values.may import JsonSchema

_TEXT: JsonSchema = {"type": "string"}
_WORDS: JsonSchema = {"type": "string", "minLength": 1}
_TIME: JsonSchema = {"type": "number", "minimum": 0}
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
_NUMBER: JsonSchema = {"type": "integer", "minimum": 1}
_CODES = (
    "INVALID_REQUEST AUDIO_FORMAT_ERROR PAYLOAD_TOO_LARGE RATE_LIMITED SESSION_NOT_FOUND "
    "PROCESSING_ERROR AT_CAPACITY NOT_READY GPU_OOM CALL_NOT_FOUND TOOL_CALL_INVALID SPEECH_FAILED"
)
# The fields that are not texts, by name: each is the same in all messages.
_FIELDS: dict[str, JsonSchema] = {
    **dict.fromkeys(("timestamp", "server_time", "connection_duration", "offset_ms"), _TIME),
    **dict.fromkeys(("duration_ms", "speech_ms", "endpoint_ms", "first_token_ms"), _TIME),
    **dict.fromkeys(("queue_ms", "encode_ms", "prefill_ms", "total_ms", "tool_ms"), _TIME),
    **dict.fromkeys(("message_count", "error_count", "queue_size", "stable_chars"), _COUNT),
    **dict.fromkeys(("tokens", "prompt_tokens", "completion_tokens", "cached_tokens"), _COUNT),
    **dict.fromkeys(("audio_bytes_received", "missed"), _COUNT),
    **dict.fromkeys(("seq", "exchanges"), _NUMBER),
    "text": _TEXT,
    **dict.fromkeys(("retry_after", "expires_in"), {"type": "number"}),
    "completeness": {"type": "number", "minimum": 0, "maximum": 1},
    "speculative": {"type": "boolean"},
    "final": {"const": True},
    "arguments": {"type": "object"},
    "request_id": {"type": ["string", "integer"]},
    "call_id": {"type": "string", "pattern": "^[a-zA-Z0-9]{9}$"},
    "code": {"enum": _CODES.split()},
    "reason": {"enum": ["silence", "semantic", "end_turn", "stalled", "too_long"]},
    "source": {"enum": ["audio", "text"]},
    "finish_reason": {"enum": ["stop", "length", "interrupted", "tool_calls"]},
    "control_type": {"const": "pong"},
    "config": whole_of(SessionConfig),
}
# A caller may send one text in place of a list.
_FIELDS["config"]["properties"]["stop"] = {"type": "array", "maxItems": MAX_STOPS, "items": _WORDS}


def _object(names: str, **own: JsonSchema) -> JsonSchema:
    """An object that has these fields; one with a `?` may be missing. `own` describes some."""
    fields = {name.removesuffix("?"): name for name in names.split()}
    described = {**dict.fromkeys(fields, _WORDS), **_FIELDS, **own}
    return {
        "type": "object",
        "properties": {name: described[name] for name in fields},
        "required": [name for name, written in fields.items() if name == written],
        "additionalProperties": False,
    }


_FIELDS |= {
    "stats": _object(
        "client_id session_id connection_duration message_count error_count queue_size"
    ),
    "metrics": _object(
        "speech_ms endpoint_ms first_token_ms queue_ms encode_ms prefill_ms total_ms tool_ms? "
        "tokens cached_tokens speculative"
    ),
    "usage": _object("prompt_tokens completion_tokens cached_tokens"),
}


def _message(kind: str, names: str, **own: JsonSchema) -> JsonSchema:
    return _object(f"type timestamp {names}", type={"const": kind}, **own)


def _status(status: str, names: str = "", **own: JsonSchema) -> JsonSchema:
    return _message("status", f"status {names}", status={"const": status}, **own)


def _either(*schemas: JsonSchema) -> JsonSchema:
    return {"oneOf": list(schemas)}


_OF_TURN = "turn_id seq"
_STATUSES = {
    # The optional ones are of a session that this connection has created.
    "connected": (
        "client_id session_id server_time websocket_url? control_url? expires_in? token?"
    ),
    "speech_started": _OF_TURN,
    "speech_ended": f"{_OF_TURN} reason completeness?",
    "turn_reopened": _OF_TURN,
    "processing": f"{_OF_TURN} request_id?",
    "interrupted": _OF_TURN,
    "config_updated": "config",
    "history_cleared": "",
    "history_trimmed": f"{_OF_TURN} exchanges",
    "resumed": "audio_bytes_received missed",
    "session_expired": "",
    "draining": "",
}
_MESSAGES = {
    "status": "stats",
    "text_response": f"{_OF_TURN} text source finish_reason usage metrics request_id?",
    "transcript_partial": f"{_OF_TURN} text stable_chars",
    "transcript": f"{_OF_TURN} text error? code?",
    "tool_call": f"{_OF_TURN} call_id name arguments request_id?",
    "audio": f"{_OF_TURN} offset_ms duration_ms text final?",
    "control": "control_type",
}
_NO_TURN: JsonSchema = {"type": "null"}
_ERROR = "error code retry_after? request_id?"
# By type and status.
SCHEMAS: dict[tuple[str, str | None], JsonSchema] = {
    **{("status", name): _status(name, fields) for name, fields in _STATUSES.items()},
    **{(kind, None): _message(kind, fields) for kind, fields in _MESSAGES.items()},
    # If the client asks for the end of a turn and none is open, there is no turn to name.
    ("status", "no_speech"): _either(_status("no_speech", _OF_TURN), _status("no_speech")),
    ("status", "cancelled"): _either(
        _status("cancelled", _OF_TURN), _status("cancelled", "turn_id", turn_id=_NO_TURN)
    ),
    ("text_delta", None): _message("text_delta", f"{_OF_TURN} text request_id?", text=_WORDS),
    ("error", None): _either(_message("error", _ERROR), _message("error", f"{_OF_TURN} {_ERROR}")),
    ("heartbeat", None): _message("heartbeat", "seq", seq=_COUNT),
}
