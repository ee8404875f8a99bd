"""The tree of everything a caller can be told.

Three branches, split by who can act: `BadInput` (the caller: change it), `Refused` (the
caller: later, or not you) and `EngineFailure` (us). Each error has a code of the public
contract; the HTTP status is part of that contract too, so it stands here once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class WorkerError(Exception):
    """Something a caller may be told: a sentence for a person and a code for a program."""

    code = "PROCESSING_ERROR"
    http_status = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        # What its sender called the message that this is about.
        self.about: str | int | None = None

    def of_field(self, field: str) -> Self:
        """The same error, whose sentence begins with the field that it is about."""
        message = f"{field}: {self.message}"
        # Not by the class: one may have a sentence of its own.
        told = type(self).__new__(type(self), message)
        told.__dict__.update(self.__dict__, message=message)
        return told


@contextmanager
def about(name: str | int | None) -> Iterator[None]:
    """Says in every WorkerError what its sender called the message that is refused."""
    try:
        yield
    except WorkerError as error:
        error.about = name
        raise


class BadInput(WorkerError):
    """The caller sent something that cannot be used."""

    code = "INVALID_REQUEST"
    http_status = 400


class BadSchema(BadInput):
    """A schema that no answer can be made to follow; `field` is `tools` or `response_format`."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class BadAudio(BadInput):
    """Audio bytes that are not in the session's format."""

    code = "AUDIO_FORMAT_ERROR"


class TooLarge(BadInput):
    """More than one message, text or prompt may hold."""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 413


class UnsupportedEncoding(BadInput):
    """A body that is compressed: what it becomes has no relation to what was sent."""

    code = "UNSUPPORTED_ENCODING"
    http_status = 415


class Refused(WorkerError):
    """A sound request that is not served, now or to this caller."""

    code = "AT_CAPACITY"
    http_status = 503


class AtCapacity(Refused):
    """Every place is taken."""


class NotReady(Refused):
    """The worker is still loading, is draining, or has failed."""

    code = "NOT_READY"


class RateLimited(Refused):
    """Over one of the documented limits."""

    code = "RATE_LIMITED"
    http_status = 429


class Unauthorized(Refused):
    """No credentials, or none that are good."""

    code = "UNAUTHORIZED"
    http_status = 401


class WrongCredentials(Unauthorized):
    """Credentials that are not good: perhaps a guess."""


class Forbidden(Refused):
    """Good credentials, or none needed, but not for this."""

    code = "FORBIDDEN"
    http_status = 403


class NotFound(Refused):
    """No such path."""

    code = "NOT_FOUND"
    http_status = 404


class SessionNotFound(Refused):
    """No such session, or not any more."""

    code = "SESSION_NOT_FOUND"
    http_status = 404


class CallNotFound(Refused):
    """No such call of a tool waits for its result, or not any more."""

    code = "CALL_NOT_FOUND"
    http_status = 404


class MethodNotAllowed(Refused):
    """The path exists, the verb does not."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405


class EngineFailure(WorkerError):
    """The model or the engine failed; the caller may try again."""


class SpeechFailed(EngineFailure):
    """The voice, or the server that has it, did not say a text."""

    code = "SPEECH_FAILED"
    http_status = 503


class OutOfMemory(EngineFailure):
    """The device has no memory left for this request."""

    code = "GPU_OOM"
    http_status = 503


class ToolCallInvalid(EngineFailure):
    """The model began to call a tool and did not end as a call must; nobody is told half of it."""

    code = "TOOL_CALL_INVALID"


class LoadFailure(EngineFailure):
    """The model cannot be loaded; the worker never becomes ready."""


def shown(value: object) -> str:
    """A value as a sentence of an error quotes it: plain ASCII, of at most 60 characters."""
    try:
        text = ascii(value)
    except RecursionError:
        return "nested too deep"
    return text if len(text) <= 60 else text[:57] + "..."
