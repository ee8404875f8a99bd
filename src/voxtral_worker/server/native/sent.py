"""Every message that a worker sends on its sockets, as JSON Schema.

They are written by hand, because messages are made on the way of every token and nothing checks
them there: the tests hold each message of a running worker against these.
"""

from voxtral_worker.engine.stops import MAX_STOPS
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.values import JsonSchema, whole_of

_TEXT: JsonSchema = {"type": "string"}
_WORDS: JsonSchema = {"type": "string", "minLength": 1}
_NUMBER: JsonSchema = {"type": "number"}
_TIME: JsonSchema = {"type": "number", "minimum": 0}
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
_SEQ: JsonSchema = {"type": "integer", "minimum": 1}
_REQUEST_ID: JsonSchema = {"type": ["string", "integer"]}
_CODES: JsonSchema = {
    "enum": [
        "INVALID_REQUEST", "AUDIO_FORMAT_ERROR", "PAYLOAD_TOO_LARGE", "RATE_LIMITED",
        "SESSION_NOT_FOUND", "PROCESSING_ERROR", "AT_CAPACITY", "NOT_READY", "GPU_OOM",
        "CALL_NOT_FOUND", "TOOL_CALL_INVALID", "SPEECH_FAILED",
    ]
}  # fmt: skip


def _object(required: JsonSchema, optional: JsonSchema | None = None) -> JsonSchema:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _message(kind: str, required: JsonSchema, optional: JsonSchema | None = None) -> JsonSchema:
    return _object({"type": {"const": kind}, "timestamp": _TIME} | required, optional)


def _status(
    name: str,
    required: JsonSchema | None = None,
    optional: JsonSchema | None = None,
    *,
    of_turn: bool,
) -> JsonSchema:
    turn = {"turn_id": _WORDS, "seq": _SEQ} if of_turn else {}
    return _message("status", {"status": {"const": name}} | turn | (required or {}), optional)


def _either(*schemas: JsonSchema) -> JsonSchema:
    return {"oneOf": list(schemas)}


_CONFIG = whole_of(SessionConfig)
# A caller may send one text in place of a list.
_CONFIG["properties"]["stop"] = {"type": "array", "maxItems": MAX_STOPS, "items": _WORDS}
_STATS = _object(
    {
        "client_id": _WORDS,
        "session_id": _WORDS,
        "connection_duration": _TIME,
        "message_count": _COUNT,
        "error_count": _COUNT,
        "queue_size": _COUNT,
    }
)
_METRICS = _object(
    dict.fromkeys(
        ["speech_ms", "endpoint_ms", "first_token_ms", "queue_ms", "encode_ms", "prefill_ms",
         "total_ms"], {"type": "number", "minimum": 0},
    )
    | {"tokens": _COUNT, "cached_tokens": _COUNT, "speculative": {"type": "boolean"}},
    {"tool_ms": _TIME},
)  # fmt: skip
_USAGE = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "cached_tokens": _COUNT})

# By type, and by status where there is one; "" are the statistics.
SCHEMAS: dict[tuple[str, str | None], JsonSchema] = {
    ("status", "connected"): _status(
        "connected",
        {"client_id": _WORDS, "session_id": _WORDS, "server_time": _TIME},
        of_turn=False,
    ),
    ("status", None): _message("status", {"stats": _STATS}),
    ("status", "speech_started"): _status("speech_started", of_turn=True),
    ("status", "speech_ended"): _status(
        "speech_ended",
        {"reason": {"enum": ["silence", "semantic", "end_turn", "stalled", "too_long"]}},
        {"completeness": {"type": "number", "minimum": 0, "maximum": 1}},
        of_turn=True,
    ),
    ("status", "turn_reopened"): _status("turn_reopened", of_turn=True),
    ("status", "processing"): _status(
        "processing", optional={"request_id": _REQUEST_ID}, of_turn=True
    ),
    # Asked for an end where nothing was open, there is no turn to name.
    ("status", "no_speech"): _either(
        _status("no_speech", of_turn=True), _status("no_speech", of_turn=False)
    ),
    ("status", "interrupted"): _status("interrupted", of_turn=True),
    ("status", "cancelled"): _either(
        _status("cancelled", of_turn=True),
        _status("cancelled", {"turn_id": {"type": "null"}}, of_turn=False),
    ),
    ("status", "config_updated"): _status("config_updated", {"config": _CONFIG}, of_turn=False),
    ("status", "history_cleared"): _status("history_cleared", of_turn=False),
    ("status", "history_trimmed"): _status("history_trimmed", {"exchanges": _SEQ}, of_turn=True),
    ("status", "resumed"): _status(
        "resumed", {"audio_bytes_received": _COUNT, "missed": _COUNT}, of_turn=False
    ),
    ("status", "session_expired"): _status("session_expired", of_turn=False),
    ("status", "draining"): _status("draining", of_turn=False),
    ("text_delta", None): _message(
        "text_delta",
        {"text": _WORDS, "turn_id": _WORDS, "seq": _SEQ},
        {"request_id": _REQUEST_ID},
    ),
    ("text_response", None): _message(
        "text_response",
        {
            "text": _TEXT,
            "turn_id": _WORDS,
            "source": {"enum": ["audio", "text"]},
            "finish_reason": {"enum": ["stop", "length", "interrupted", "tool_calls"]},
            "usage": _USAGE,
            "metrics": _METRICS,
            "seq": _SEQ,
        },
        {"request_id": _REQUEST_ID},
    ),
    ("transcript_partial", None): _message(
        "transcript_partial",
        {"text": _TEXT, "stable_chars": _COUNT, "turn_id": _WORDS, "seq": _SEQ},
    ),
    ("transcript", None): _message(
        "transcript",
        {"text": _TEXT, "turn_id": _WORDS, "seq": _SEQ},
        {"error": _WORDS, "code": _CODES},
    ),
    ("tool_call", None): _message(
        "tool_call",
        {
            "turn_id": _WORDS,
            "call_id": {"type": "string", "pattern": "^[a-zA-Z0-9]{9}$"},
            "name": _WORDS,
            "arguments": {"type": "object"},
            "seq": _SEQ,
        },
        {"request_id": _REQUEST_ID},
    ),
    ("audio", None): _message(
        "audio",
        {
            "turn_id": _WORDS,
            "offset_ms": _TIME,
            "duration_ms": _TIME,
            "text": _TEXT,
            "seq": _SEQ,
        },
        {"final": {"const": True}},
    ),
    ("error", None): _either(
        _message(
            "error",
            {"error": _WORDS, "code": _CODES},
            {"retry_after": _NUMBER, "request_id": _REQUEST_ID},
        ),
        _message(
            "error",
            {"error": _WORDS, "code": _CODES, "turn_id": _WORDS, "seq": _SEQ},
            {"retry_after": _NUMBER, "request_id": _REQUEST_ID},
        ),
    ),
    ("heartbeat", None): _message("heartbeat", {"seq": _COUNT}),
    ("control", None): _message("control", {"control_type": {"const": "pong"}}),
}
