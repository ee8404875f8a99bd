"""Errors in OpenAI's shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from voxtral_worker.errors import BadInput, BadSchema, NotFound, SessionNotFound, WorkerError

# OpenAI's own codes where it has one; elsewhere the worker's, in OpenAI's lower case.
_CODES = {
    "UNAUTHORIZED": "invalid_api_key",
    "RATE_LIMITED": "rate_limit_exceeded",
    "PROCESSING_ERROR": "server_error",
    "INVALID_REQUEST": None,
}


class BadOption(BadInput):
    """A parameter that cannot be used; `param`, which the message names too, is OpenAI's name."""

    def __init__(self, param: str | None, message: str, code: str | None = None) -> None:
        is_named = param is None or param in message
        super().__init__(message if is_named else f"{param}: {message}")
        self.param = param
        self.openai_code = code
        # So many like it are left out.
        self.more = 0


class ModelNotFound(NotFound):
    """The worker serves another model."""

    param = "model"
    openai_code = "model_not_found"


class SessionExpired(SessionNotFound):
    """The session was quiet for too long."""

    openai_code = "session_expired"


def unsupported(param: str, message: str | None = None) -> BadOption:
    """The error for an option of OpenAI's that this worker does not have."""
    told = message or f"{param} is not supported by this worker"
    return BadOption(param, told, "unsupported_parameter")


def within(param: str, error: BadInput) -> BadOption:
    """An error of the worker's own, for a parameter; one of a schema names its own."""
    if isinstance(error, BadOption):
        return error
    if isinstance(error, BadSchema):
        param = error.field
    told = BadOption(param, error.message, error_code(error))
    # A body that is too large stays 413.
    told.http_status = error.http_status
    return told


@contextmanager
def told_of(param: str) -> Iterator[None]:
    """A BadInput that is raised within becomes the error of a parameter."""
    try:
        yield
    except BadInput as error:
        raise within(param, error) from None


def error_code(error: WorkerError) -> str | None:
    """OpenAI's code of an error."""
    own = getattr(error, "openai_code", None)
    return own or _CODES.get(error.code, error.code.lower())


def error_object(error: WorkerError) -> dict[str, Any]:
    """What stands under `error`."""
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
