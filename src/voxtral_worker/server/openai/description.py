"""OpenAPI 3.1 of OpenAI's REST calls."""

from typing import Any

from voxtral_worker.server.openai.chat_request import ChatBody
from voxtral_worker.server.openai.responses_request import ResponsesBody
from voxtral_worker.server.openai.speech_request import SpeechRequest
from voxtral_worker.server.openai.transcription_request import TranscriptionRequest
from voxtral_worker.speech.files import FORMATS
from voxtral_worker.values import Values, components, without_null

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_WHOLE = {"type": "integer"}
_ERROR = {"$ref": "#/components/schemas/OpenAIError"}
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


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _errors(*codes: int) -> dict[str, Any]:
    return {str(code): {"description": _ERRORS[code], "content": _json(_ERROR)} for code in codes}


_MODEL = _object({"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT})
_USAGE = _object(
    {
        "prompt_tokens": _WHOLE,
        "completion_tokens": _WHOLE,
        "total_tokens": _WHOLE,
        "prompt_tokens_details": _object({"audio_tokens": _WHOLE, "cached_tokens": _WHOLE}),
    }
)
_MAY_BE_TEXT = {"type": ["string", "null"]}
_CALLS = {
    "type": "array",
    "items": _object(
        {
            "id": _TEXT,
            "type": {"const": "function"},
            "function": _object({"name": _TEXT, "arguments": _TEXT}),
        }
    ),
}
_COMPLETION = _object(
    {
        "id": _TEXT,
        "object": {"const": "chat.completion"},
        "created": _WHOLE,
        "model": _TEXT,
        "choices": {
            "type": "array",
            "items": _object(
                {
                    "index": _WHOLE,
                    "message": _object(
                        {
                            "role": {"const": "assistant"},
                            "content": _MAY_BE_TEXT,
                            "tool_calls": _CALLS,
                        },
                        "tool_calls",
                    ),
                    "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
                }
            ),
        },
        "usage": _USAGE,
    }
)
_RESPONSE = _object(
    {
        "id": _TEXT,
        "object": {"const": "response"},
        "status": {"enum": ["completed", "incomplete"]},
        "model": _TEXT,
        "output": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": "object"},
    }
)
_TRANSCRIPTION = _object(
    {
        "text": _TEXT,
        "usage": {"type": "object"},
        "duration": _NUMBER,
        "language": _TEXT,
        "segments": {"type": "array", "items": {"type": "object"}},
    },
    "duration",
    "language",
    "segments",
)
_BODIES = components(ChatBody, ResponsesBody, SpeechRequest, TranscriptionRequest)


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """A form has no null, and lists under names of their own."""
    fields = {name: without_null(each) for name, each in schema["properties"].items()}
    fields["timestamp_granularities[]"] = fields.pop("timestamp_granularities")
    return {**schema, "properties": fields, "additionalProperties": False}


_BODIES["TranscriptionRequest"] = _form(_BODIES["TranscriptionRequest"])


def _body(model: type[Values], kind: str = "application/json") -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"required": True, "content": {kind: {"schema": schema}}}


_MODEL_PATH = [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]

OPENAI_SCHEMAS: dict[str, Any] = {
    **_BODIES,
    "OpenAIError": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                }
            )
        }
    ),
}

OPENAI_PATHS: dict[str, Any] = {
    "/v1/models": {
        "get": {
            "summary": "OpenAI: the model that is served",
            "responses": {
                "200": {
                    "description": "One model",
                    "content": _json(
                        _object(
                            {
                                "object": {"const": "list"},
                                "data": {"type": "array", "items": _MODEL},
                            }
                        )
                    ),
                },
                **_errors(401, 403, 429, 503),
            },
        }
    },
    "/v1/models/{model}": {
        "get": {
            "summary": "OpenAI: a model by its name",
            "parameters": _MODEL_PATH,
            "responses": {
                "200": {"description": "The model", "content": _json(_MODEL)},
                **_errors(401, 403, 404, 429, 503),
            },
        }
    },
    "/v1/audio/transcriptions": {
        "post": {
            "summary": "OpenAI: the words of a file of any kind",
            "requestBody": _body(TranscriptionRequest, "multipart/form-data"),
            "responses": {
                "200": {
                    "description": "The words; with `stream`, `transcript.text.*` events",
                    "content": {
                        **_json(_TRANSCRIPTION),
                        "text/plain": {"schema": _TEXT},
                        **_SSE,
                    },
                },
                **_errors(400, 401, 403, 404, 413, 429, 500, 503),
            },
        }
    },
    "/v1/audio/speech": {
        "post": {
            "summary": "OpenAI: a text as speech, sent while it is made",
            "requestBody": _body(SpeechRequest),
            "responses": {
                "200": {
                    "description": "A file of the format that was asked for",
                    "content": {
                        kind.content_type: {"schema": {"type": "string", "format": "binary"}}
                        for kind in FORMATS.values()
                    },
                },
                **_errors(400, 401, 403, 413, 429, 500, 503),
            },
        }
    },
    "/v1/chat/completions": {
        "post": {
            "summary": "OpenAI: an answer to a conversation of texts and audio",
            "requestBody": _body(ChatBody),
            "responses": {
                "200": {
                    "description": "The answer; with `stream`, `chat.completion.chunk` events",
                    "content": {**_json(_COMPLETION), **_SSE},
                },
                **_errors(400, 401, 403, 404, 413, 429, 500, 503),
            },
        }
    },
    "/v1/responses": {
        "post": {
            "summary": "OpenAI: an answer to a conversation, in the shape of the Responses API",
            "requestBody": _body(ResponsesBody),
            "responses": {
                "200": {
                    "description": "The response; with `stream`, `response.*` events",
                    "content": {**_json(_RESPONSE), **_SSE},
                },
                **_errors(400, 401, 403, 404, 413, 429, 500, 503),
            },
        }
    },
}
