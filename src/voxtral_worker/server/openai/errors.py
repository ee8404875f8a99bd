"""Errors as OpenAI's API shows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from voxtral_worker.errors import BadInput, BadSchema, NotFound, SessionNotFound, WorkerError

# The codes for which OpenAI has a name of its own. All others are the worker's in lower case.
_CODES = {
    "UNAUTHORIZED": "invalid_api_key",
    "RATE_LIMITED": "rate_limit_exceeded",
    "PROCESSING_ERROR": "server_error",
    "INVALID_REQUEST": None,
}


class BadOption(BadInput):
    """A parameter that cannot be used. The message contains its name, `param`."""

    def __init__(self, param: str | None, message: str, code: str | None = None) -> None:
        is_named = param is None or param in message
        super().__init__(message if is_named else f"{param}: {message}")
        self.param = param
        self.openai_code = code


class ModelNotFound(NotFound):
    """The worker serves another model."""

    param = "model"
    openai_code = "model_not_found"


class SessionExpired(SessionNotFound):
    """The session was quiet for too long."""

    openai_code = "session_expired"


def unsupported(param: str, message: str | None = None) -> BadOption:
    """The error for a parameter of OpenAI's API that this worker does not support."""
    told = message or f"{param} is not supported by this worker"
    return BadOption(param, told, "unsupported_parameter")


def within(param: str, error: BadInput) -> BadOption:
    """An error of the worker as the error of a parameter. A BadSchema knows its parameter."""
    if isinstance(error, BadOption):
        return error
    if isinstance(error, BadSchema):
        param = error.field
    told = BadOption(param, error.message, error_code(error))
    # The status stays: 413 for a body that is too large.
    told.http_status = error.http_status
    return told


@contextmanager
def told_of(param: str) -> Iterator[None]:
    """Turn a BadInput of the `with` block into the error of a parameter."""
    try:
        yield
    except BadInput as error:
        raise within(param, error) from None


def error_code(error: WorkerError) -> str | None:
    """The code of an error in OpenAI's API."""
    own = getattr(error, "openai_code", None)
    return own or _CODES.get(error.code, error.code.lower())


def error_object(error: WorkerError) -> dict[str, Any]:
    """The object under the key `error` of a response."""
    return {
        "message": error.message,
        "type": _type(error.http_status),
        "param": getattr(error, "param", None),
        "code": error_code(error),
    }


def _type(status: int) -> str:
    match status:
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _ if status >= 500:
            return "server_error"
    return "invalid_request_error"
