"""OpenAPI 3.1 of OpenAI's REST calls."""

from typing import Any

from voxtral_worker.sessions.config import LANGUAGES

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
_WORDS = {"type": "string", "minLength": 1, "pattern": r"\S"}
_PART = {
    "oneOf": [
        _object({"type": {"const": "text"}, "text": _WORDS}),
        _object(
            {
                "type": {"const": "input_audio"},
                "input_audio": _object(
                    {"data": _TEXT, "format": {"enum": ["wav", "mp3", "flac", "ogg"]}}
                ),
            }
        ),
    ]
}
_CHAT = _object(
    {
        "model": _TEXT,
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2048,
            "items": _object(
                {
                    "role": {"enum": ["system", "developer", "user", "assistant"]},
                    "content": {
                        "oneOf": [_WORDS, {"type": "array", "minItems": 1, "items": _PART}]
                    },
                }
            ),
        },
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 4096},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 4096},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
    },
    "temperature",
    "top_p",
    "max_completion_tokens",
    "max_tokens",
    "stream",
    "stream_options",
)
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
                    "message": _object({"role": {"const": "assistant"}, "content": _TEXT}),
                    "finish_reason": {"enum": ["stop", "length"]},
                }
            ),
        },
        "usage": _USAGE,
    }
)
_FORM = _object(
    {
        "file": {"type": "string", "format": "binary"},
        "model": _TEXT,
        "language": {"enum": ["", *sorted(LANGUAGES)]},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "response_format": {"enum": ["json", "text", "verbose_json"]},
        "stream": {"type": "boolean"},
        "timestamp_granularities[]": {"type": "array", "items": {"const": "segment"}},
    },
    "language",
    "temperature",
    "response_format",
    "stream",
    "timestamp_granularities[]",
)
# Names that are not here are refused.
_FORM["additionalProperties"] = False
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
_MODEL_PATH = [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]

OPENAI_SCHEMAS: dict[str, Any] = {
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
                **_errors(401, 403, 503),
            },
        }
    },
    "/v1/models/{model}": {
        "get": {
            "summary": "OpenAI: a model by its name",
            "parameters": _MODEL_PATH,
            "responses": {
                "200": {"description": "The model", "content": _json(_MODEL)},
                **_errors(401, 403, 404, 503),
            },
        }
    },
    "/v1/audio/transcriptions": {
        "post": {
            "summary": "OpenAI: the words of a file (wav, flac, mp3, ogg)",
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": _FORM}},
            },
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
    "/v1/chat/completions": {
        "post": {
            "summary": "OpenAI: an answer to a conversation of texts and audio",
            "requestBody": {"required": True, "content": _json(_CHAT)},
            "responses": {
                "200": {
                    "description": "The answer; with `stream`, `chat.completion.chunk` events",
                    "content": {**_json(_COMPLETION), **_SSE},
                },
                **_errors(400, 401, 403, 404, 413, 429, 500, 503),
            },
        }
    },
}
