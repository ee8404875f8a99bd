"""OpenAPI 3.1 of OpenAI's REST calls."""

from typing import Any

from voxtral_worker.engine.stops import MAX_STOP_CHARACTERS, MAX_STOPS
from voxtral_worker.engine.tool_options import CHOICES, MAX_TOOLS
from voxtral_worker.server.openai.chat_request import MAX_CHOICES, MAX_MESSAGES, MAX_PARTS
from voxtral_worker.server.openai.speech_request import (
    MAX_INPUT_CHARACTERS,
    MAX_SPEED,
    MIN_SPEED,
)
from voxtral_worker.sessions.config import LANGUAGES, MOST_SEED
from voxtral_worker.speech.files import FORMATS
from voxtral_worker.speech.pieces import MAX_VOICE_CHARACTERS

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
_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
STOP: dict[str, Any] = {
    "anyOf": [
        {"type": "null"},
        _STOP_TEXT,
        {"type": "array", "maxItems": MAX_STOPS, "items": _STOP_TEXT},
    ]
}
SEED: dict[str, Any] = {"type": ["integer", "null"], "minimum": -MOST_SEED, "maximum": MOST_SEED}
_PART = {
    "anyOf": [
        _object(
            {"type": {"enum": ["text", "input_text", "output_text"]}, "text": _MAY_BE_TEXT}, "text"
        ),
        _object({"type": {"const": "refusal"}, "refusal": _MAY_BE_TEXT}, "refusal"),
        _object(
            {
                "type": {"const": "input_audio"},
                "input_audio": {
                    "anyOf": [_TEXT, _object({"data": _TEXT, "format": _MAY_BE_TEXT}, "format")]
                },
            }
        ),
        _object(
            {
                "type": {"const": "audio_url"},
                "audio_url": {"anyOf": [_TEXT, _object({"url": _TEXT})]},
            }
        ),
    ]
}
TOOLS: dict[str, Any] = {
    "type": ["array", "null"],
    "maxItems": MAX_TOOLS,
    "items": {"type": "object", "description": "A function, nested or flat: docs/tools.md"},
}
TOOL_CHOICE: dict[str, Any] = {
    "anyOf": [
        {"enum": [*CHOICES, None]},
        {"type": "object", "description": "Names one of the tools"},
    ]
}
_MAY_BE_FLAG = {"type": ["boolean", "null"]}
_FORMAT = {
    "type": ["object", "null"],
    "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
    "required": ["type"],
}
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
_CHAT = _object(
    {
        "model": _TEXT,
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_MESSAGES,
            "items": _object(
                {
                    "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
                    "tool_calls": {"anyOf": [{"type": "null"}, _CALLS]},
                    "tool_call_id": _MAY_BE_TEXT,
                    "content": {
                        "anyOf": [
                            _MAY_BE_TEXT,
                            {"type": "array", "maxItems": MAX_PARTS, "items": _PART},
                        ]
                    },
                },
                "content",
                "tool_calls",
                "tool_call_id",
            ),
        },
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": _MAY_BE_FLAG,
        "response_format": _FORMAT,
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 4096},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 4096},
        "stop": {"anyOf": [STOP, {"const": ""}]},
        "seed": SEED,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CHOICES},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {
                "include_usage": {"type": ["boolean", "null"]},
                "include_obfuscation": {"type": ["boolean", "null"]},
            },
        },
    },
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "stop",
    "seed",
    "n",
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
_RESPONSES = _object(
    {
        "model": _TEXT,
        "input": {
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_MESSAGES,
                    "items": {"type": "object"},
                },
            ]
        },
        "instructions": _MAY_BE_TEXT,
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": _MAY_BE_FLAG,
        "text": {"type": ["object", "null"], "properties": {"format": _FORMAT}},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 4096},
        "metadata": {"type": ["object", "null"]},
        "stream": {"type": ["boolean", "null"]},
    },
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "temperature",
    "top_p",
    "max_output_tokens",
    "metadata",
    "stream",
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
_FORM = _object(
    {
        "file": {"type": "string", "format": "binary"},
        "model": _TEXT,
        "language": {"enum": ["", *sorted(LANGUAGES)]},
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "response_format": {"enum": ["json", "text", "verbose_json", "srt", "vtt"]},
        "prompt": _TEXT,
        "chunking_strategy": {"enum": ["auto", "server_vad"]},
        "stream": {"type": "boolean"},
        "timestamp_granularities[]": {"type": "array", "items": {"const": "segment"}},
    },
    "language",
    "temperature",
    "response_format",
    "prompt",
    "chunking_strategy",
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
_SPEECH = _object(
    {
        "model": _MAY_BE_TEXT,
        "input": {"type": "string", "minLength": 1, "maxLength": MAX_INPUT_CHARACTERS},
        "voice": {"type": ["string", "null"], "maxLength": MAX_VOICE_CHARACTERS},
        "response_format": {"enum": [*FORMATS, None]},
        "speed": {"type": ["number", "null"], "minimum": MIN_SPEED, "maximum": MAX_SPEED},
        "instructions": _MAY_BE_TEXT,
        "stream_format": {"enum": ["audio", None]},
    },
    "model",
    "voice",
    "response_format",
    "speed",
    "instructions",
    "stream_format",
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
    "/v1/audio/speech": {
        "post": {
            "summary": "OpenAI: a text as speech, sent while it is made",
            "requestBody": {"required": True, "content": _json(_SPEECH)},
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
    "/v1/responses": {
        "post": {
            "summary": "OpenAI: an answer to a conversation, in the shape of the Responses API",
            "requestBody": {"required": True, "content": _json(_RESPONSES)},
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
