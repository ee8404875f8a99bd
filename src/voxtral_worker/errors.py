"""The tree of everything a caller can be told.

Three branches, split by who can act: `BadInput` (the caller: change it), `Refused` (the
caller: later, or not you) and `EngineFailure` (us). Each error has a code of the public
contract; the HTTP status is part of that contract too, so it stands here once.
"""


class WorkerError(Exception):
    """Something a caller may be told: a sentence for a person and a code for a program."""

    code = "PROCESSING_ERROR"
    http_status = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        # What its sender called the message that this is about.
        self.request_id: str | int | None = None


class BadInput(WorkerError):
    """The caller sent something that cannot be used."""

    code = "INVALID_REQUEST"
    http_status = 400


class BadAudio(BadInput):
    """Audio bytes that are not in the session's format."""

    code = "AUDIO_FORMAT_ERROR"


class TooLarge(BadInput):
    """More than one message, text or prompt may hold."""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 413


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


class MethodNotAllowed(Refused):
    """The path exists, the verb does not."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405


class EngineFailure(WorkerError):
    """The model or the engine failed; the caller may try again."""


class OutOfMemory(EngineFailure):
    """The device has no memory left for this request."""

    code = "GPU_OOM"
    http_status = 503


class LoadFailure(EngineFailure):
    """The model cannot be loaded; the worker never becomes ready."""
