"""OpenAPI 3.1 of OpenAI's REST calls."""

from typing import Any

from voxtral_worker.server.openai.chat_request import ChatRequest
from voxtral_worker.server.openai.responses_request import ResponsesRequest
from voxtral_worker.server.openai.speech_request import SpeechRequest
from voxtral_worker.server.openai.transcription_request import TranscriptionRequest
from voxtral_worker.speech.files import FORMATS
from voxtral_worker.values.described import components
from voxtral_worker.values.model import Values
from voxtral_worker.values.nulls import without_null

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_WHOLE = {"type": "integer"}
_OBJECT = {"type": "object"}
_MAY_BE_TEXT = {"type": ["string", "null"]}
_SSE = {"text/event-stream": {"schema": _TEXT}}

_ERRORS = {
    400: "What was sent cannot be used, or is not supported; `param` names it",
    401: "Credentials are needed",
    403: "Not for this caller",
    404: "No such model",
    413: "The body is over 25 MiB, or the prompt is longer than the context",
    429: "Over a limit; see Retry-After",
    500: "The worker failed",
    503: "At capacity, loading, draining or failed; see Retry-After",
}


def _object(*optional: str, **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _part(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _call(
    summary: str, answer: str, content: dict[str, Any], *errors: int, **rest: Any
) -> dict[str, Any]:
    """One operation: its answer, and the statuses of its errors."""
    refusals = {
        str(code): {"description": _ERRORS[code], "content": _json(_part("OpenAIError"))}
        for code in (*errors, 401, 403, 429, 503)
    }
    responses = {"200": {"description": answer, "content": content}, **refusals}
    return {"summary": f"OpenAI: {summary}", "responses": responses, **rest}


def _post(
    model: type[Values],
    summary: str,
    answer: str,
    content: dict[str, Any],
    *errors: int,
    kind: str = "application/json",
) -> dict[str, Any]:
    """An operation whose body is a model."""
    body = {"required": True, "content": {kind: {"schema": _part(model.__name__)}}}
    return {"post": _call(summary, answer, content, 400, 413, 500, *errors, requestBody=body)}


_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT)
_USAGE = _object(
    prompt_tokens=_WHOLE,
    completion_tokens=_WHOLE,
    total_tokens=_WHOLE,
    prompt_tokens_details=_object(audio_tokens=_WHOLE, cached_tokens=_WHOLE),
)
_FUNCTION = _object(name=_TEXT, arguments=_TEXT)
_MESSAGE = _object(
    "tool_calls",
    role={"const": "assistant"},
    content=_MAY_BE_TEXT,
    tool_calls=_list(_object(id=_TEXT, type={"const": "function"}, function=_FUNCTION)),
)
_REASONS = {"enum": ["stop", "length", "tool_calls"]}
_COMPLETION = _object(
    id=_TEXT,
    object={"const": "chat.completion"},
    created=_WHOLE,
    model=_TEXT,
    choices=_list(_object(index=_WHOLE, message=_MESSAGE, finish_reason=_REASONS)),
    usage=_USAGE,
)
_RESPONSE = _object(
    id=_TEXT,
    object={"const": "response"},
    status={"enum": ["completed", "incomplete"]},
    model=_TEXT,
    output=_list(_OBJECT),
    usage=_OBJECT,
)
_TRANSCRIPTION = _object(
    *("duration", "language", "segments"),
    text=_TEXT,
    usage=_OBJECT,
    duration=_NUMBER,
    language=_TEXT,
    segments=_list(_OBJECT),
)
_FILE = {"schema": {"type": "string", "format": "binary"}}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """A form has no null, and marks the names of lists."""
    fields = {name: without_null(each) for name, each in schema["properties"].items()}
    fields["timestamp_granularities[]"] = fields.pop("timestamp_granularities")
    return {**schema, "properties": fields, "additionalProperties": False}


_BODIES = components(ChatRequest, ResponsesRequest, SpeechRequest, TranscriptionRequest)
OPENAI_SCHEMAS: dict[str, Any] = {
    **_BODIES,
    "TranscriptionRequest": _form(_BODIES["TranscriptionRequest"]),
    "OpenAIError": _object(
        error=_object(message=_TEXT, type=_TEXT, param=_MAY_BE_TEXT, code=_MAY_BE_TEXT)
    ),
}

OPENAI_PATHS: dict[str, Any] = {
    "/v1/models": {
        "get": _call(
            "the model that is served",
            "One model",
            _json(_object(object={"const": "list"}, data=_list(_MODEL))),
        )
    },
    "/v1/models/{model}": {
        "get": _call(
            "a model by its name",
            "The model",
            _json(_MODEL),
            404,
            parameters=[{"name": "model", "in": "path", "required": True, "schema": _TEXT}],
        )
    },
    "/v1/audio/transcriptions": _post(
        TranscriptionRequest,
        "the words of a file of any kind",
        "The words; with `stream`, `transcript.text.*` events",
        {**_json(_TRANSCRIPTION), "text/plain": {"schema": _TEXT}, **_SSE},
        404,
        kind="multipart/form-data",
    ),
    "/v1/audio/speech": _post(
        SpeechRequest,
        "a text as speech, sent while it is made",
        "A file of the format that was asked for",
        {kind.content_type: _FILE for kind in FORMATS.values()},
    ),
    "/v1/chat/completions": _post(
        ChatRequest,
        "an answer to a conversation of texts and audio",
        "The answer; with `stream`, `chat.completion.chunk` events",
        {**_json(_COMPLETION), **_SSE},
        404,
    ),
    "/v1/responses": _post(
        ResponsesRequest,
        "an answer to a conversation, in the shape of the Responses API",
        "The response; with `stream`, `response.*` events",
        {**_json(_RESPONSE), **_SSE},
        404,
    ),
}
