"""The OpenAPI 3.1 description of all REST calls."""

import copy
from typing import Any

from voxtral_worker import __version__
from voxtral_worker.server.openai.description import OPENAI_PATHS, OPENAI_SCHEMAS
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.values.described import described


def _schema(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_WHOLE = {"type": "integer"}
_ID = {"type": "string", "format": "uuid"}
_ERROR_SCHEMA = {"$ref": "#/components/schemas/Error"}
_CONFIG = {"$ref": "#/components/schemas/SessionConfig"}

_ERRORS = {
    400: "What was sent cannot be used",
    401: "Credentials are needed",
    403: "Not for this caller",
    404: "No such session",
    413: "The body is over 1 MiB",
    429: "Over a limit; see Retry-After",
    500: "The worker failed",
    503: "At capacity, loading, draining or failed; see Retry-After",
}


def _errors(*codes: int) -> dict[str, Any]:
    return {str(code): _answer(_ERRORS[code], _ERROR_SCHEMA) for code in codes}


_LIMIT_HEADERS = {
    name: {"description": description, "schema": _WHOLE}
    for name, description in {
        "X-RateLimit-Limit": "Calls allowed in a minute",
        "X-RateLimit-Remaining": "Calls left now",
        "X-RateLimit-Reset": "Unix seconds at which one more is free",
    }.items()
}

_HEALTH = _schema(
    {
        "status": {"enum": ["healthy", "starting", "draining", "unhealthy"]},
        "timestamp": _NUMBER,
        "system": _schema(
            {"cpu_percent": _NUMBER, "memory_percent": _NUMBER, "disk_usage": _NUMBER}
        ),
        "gpu": _schema(
            {
                "gpu_count": _WHOLE,
                "gpu_memory": _WHOLE,
                "gpu_memory_allocated": _WHOLE,
                "gpu_memory_cached": _WHOLE,
            }
        ),
        "active_sessions": _WHOLE,
        "queue_size": _WHOLE,
        "model": {"type": "object"},
        "capacity": _schema({"max_sessions": _WHOLE, "available": _WHOLE}),
        "voices": {"type": "array", "items": _TEXT},
        # Null once the worker is ready.
        "loading": {
            "anyOf": [
                {"type": "null"},
                _schema(
                    {
                        "step": {"type": ["string", "null"]},
                        "since_s": _NUMBER,
                        "download": {
                            "anyOf": [
                                {"type": "null"},
                                _schema({"bytes": _WHOLE, "total_bytes": _WHOLE}),
                            ]
                        },
                        "done": {
                            "type": "array",
                            "items": _schema({"step": _TEXT, "took_s": _NUMBER}),
                        },
                    }
                ),
            ]
        },
        "version": _TEXT,
        "uptime_seconds": _NUMBER,
    }
)

_CREATED = _schema(
    {
        "session_id": _ID,
        "status": {"const": "created"},
        "websocket_url": _TEXT,
        "control_url": _TEXT,
        "expires_in": _NUMBER,
        "config": _CONFIG,
        "token": _TEXT,
    },
    ["session_id", "status", "websocket_url", "expires_in", "config"],
)

_SESSION_PATH = [{"name": "session_id", "in": "path", "required": True, "schema": _TEXT}]

_SESSION_LINKS = {
    operation: {
        "operationId": operation,
        "parameters": {"session_id": "$response.body#/session_id"},
    }
    for operation in ("getSession", "deleteSession")
}

_OPEN: list[dict[str, Any]] = []

_CREATE_BODY = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {
                **_schema({"config": {"anyOf": [_CONFIG, {"type": "null"}]}}, []),
                "additionalProperties": {"type": "null"},
            }
        }
    },
}

DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Voxtral worker",
        "version": __version__,
        "description": "Sessions are made here and talked to by WebSocket: see docs/protocol.md. "
        "Every answer has a header X-Request-Id. Integers are written without a fraction.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "security": [{"bearer": []}, {"apiKey": []}, {"token": []}, {}],
    "paths": {
        "/ping": {
            "get": {
                "summary": "For load balancers",
                "security": _OPEN,
                "responses": {
                    "200": {"description": "Ready"},
                    "204": {"description": "Still loading"},
                    "503": {"description": "Draining or failed"},
                },
            }
        },
        "/health": {
            "get": {
                "summary": "The state of the worker",
                "responses": {
                    "200": _answer("Healthy", _HEALTH),
                    "503": _answer("Not healthy, or refused", {"anyOf": [_HEALTH, _ERROR_SCHEMA]}),
                    **_errors(401, 403, 429),
                },
            }
        },
        "/metrics": {
            "get": {
                "summary": "Prometheus metrics",
                "responses": {
                    "200": {
                        "description": "Text exposition format",
                        "content": {"text/plain": {"schema": _TEXT}},
                    },
                    **_errors(401, 403, 429),
                },
            }
        },
        "/session/create": {
            "post": {
                "summary": "Create a session",
                "requestBody": _CREATE_BODY,
                "responses": {
                    "200": {
                        **_answer("Created", _CREATED),
                        "headers": _LIMIT_HEADERS,
                        "links": _SESSION_LINKS,
                    },
                    **_errors(400, 401, 403, 413, 429, 500, 503),
                },
            }
        },
        "/session/{session_id}": {
            "get": {
                "summary": "Status, config and stats of a session",
                "operationId": "getSession",
                "parameters": _SESSION_PATH,
                "responses": {
                    "200": _answer(
                        "The session",
                        _schema(
                            {
                                "session_id": _ID,
                                "status": {"const": "active"},
                                "config": _CONFIG,
                                "stats": {"type": "object"},
                            }
                        ),
                    ),
                    **_errors(401, 403, 404, 429),
                },
            },
            "delete": {
                "summary": "End a session and close its connections",
                "operationId": "deleteSession",
                "parameters": _SESSION_PATH,
                "responses": {
                    "200": _answer(
                        "Deleted", _schema({"status": {"const": "deleted"}, "session_id": _ID})
                    ),
                    **_errors(401, 403, 404, 429, 500, 503),
                },
            },
        },
        **OPENAI_PATHS,
        "/": {
            "get": {
                "summary": "The browser console",
                "security": _OPEN,
                "responses": {
                    "200": {
                        "description": "A page",
                        "content": {"text/html": {"schema": _TEXT}},
                    }
                },
            }
        },
        "/docs": {
            "get": {
                "summary": "This description as a page",
                "security": _OPEN,
                "responses": {
                    "200": {
                        "description": "A page",
                        "content": {"text/html": {"schema": _TEXT}},
                    }
                },
            }
        },
        "/asyncapi.json": {
            "get": {
                "summary": "The description of the sockets",
                "security": _OPEN,
                "responses": {"200": _answer("AsyncAPI 3.0", {"type": "object"})},
            }
        },
        "/openapi.json": {
            "get": {
                "summary": "This description",
                "security": _OPEN,
                "responses": {"200": _answer("OpenAPI 3.1", {"type": "object"})},
            }
        },
    },
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "token": {"type": "apiKey", "in": "query", "name": "token"},
        },
        "schemas": {
            "Error": _schema({"error": _TEXT, "code": _TEXT}),
            **OPENAI_SCHEMAS,
            "SessionConfig": described(SessionConfig),
        },
    },
}


def description(*, has_turn_model: bool, has_voices: bool) -> dict[str, Any]:
    """The description for one worker, without the values that it has no model or voice for."""
    told = copy.deepcopy(DESCRIPTION)
    options = told["components"]["schemas"]["SessionConfig"]["properties"]
    if not has_turn_model:
        options["turn_detection"]["enum"].remove("semantic")
    if not has_voices:
        options["voice"] = {"type": "null", "default": None}
    return told
