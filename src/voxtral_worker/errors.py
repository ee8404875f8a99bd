"""The tree of all errors that a caller can get.

It has three branches, by who can act:

- `BadInput`: the caller, who must change the request.
- `Refused`: the caller, who may try later, or is not allowed to do this.
- `EngineFailure`: the operator of the worker.

Each class has its documented code and HTTP status. No other place sets them.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

# How much of a value an error quotes.
SHOWN_DEPTH = 3
SHOWN_MEMBERS = 3
SHOWN_CHARACTERS = 120


class WorkerError(Exception):
    """An error for a caller: a sentence for people and a code for programs.

    `retry_after_s`: when trying again may help; None: not known.
    """

    code = "PROCESSING_ERROR"
    http_status = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        # The sender's own id of the message that was refused: a request_id or event_id.
        self.about: str | int | None = None

    def of_field(self, field: str) -> Self:
        """The same error with the name of the field at the beginning of its sentence."""
        return self.saying(f"{field}: {self.message}")

    def saying(self, message: str) -> Self:
        """The same error in other words."""
        # Do not call the class: some classes make their own sentence in `__init__`.
        told = type(self).__new__(type(self), message)
        told.__dict__.update(self.__dict__, message=message)
        return told


@contextmanager
def about(name: str | int | None) -> Iterator[None]:
    """Set `about` in every WorkerError of the `with` block to the sender's id of its message."""
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
    """A JSON schema that is not supported; `field` is `tools` or `response_format`."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class BadAudio(BadInput):
    """Audio bytes that are not in the session's format."""

    code = "AUDIO_FORMAT_ERROR"


class TooLarge(BadInput):
    """A message, text, file or prompt is larger than its limit."""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 413


class UnsupportedEncoding(BadInput):
    """A compressed body. It is refused because a small one may become very large."""

    code = "UNSUPPORTED_ENCODING"
    http_status = 415


class Refused(WorkerError):
    """A valid request that is not served now, or not for this caller."""

    code = "AT_CAPACITY"
    http_status = 503


class AtCapacity(Refused):
    """The worker has no room for this now."""


class NotReady(Refused):
    """The worker is still loading, is draining, or has failed."""

    code = "NOT_READY"


class RateLimited(Refused):
    """The caller is over one of the documented limits."""

    code = "RATE_LIMITED"
    http_status = 429


class Unauthorized(Refused):
    """Credentials are missing or wrong."""

    code = "UNAUTHORIZED"
    http_status = 401


class WrongCredentials(Unauthorized):
    """The credentials are wrong. Each one counts as a guess."""


class Forbidden(Refused):
    """The caller is known, or needs no credentials, but may not do this."""

    code = "FORBIDDEN"
    http_status = 403


class NotFound(Refused):
    """There is nothing at this path."""

    code = "NOT_FOUND"
    http_status = 404


class SessionNotFound(Refused):
    """The session does not exist, or no longer."""

    code = "SESSION_NOT_FOUND"
    http_status = 404


class CallNotFound(Refused):
    """No tool call with this id waits for a result, or no longer."""

    code = "CALL_NOT_FOUND"
    http_status = 404


class MethodNotAllowed(Refused):
    """The path exists, but not with this HTTP method."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405


class EngineFailure(WorkerError):
    """The model or the engine failed; the caller may try again."""


class SpeechFailed(EngineFailure):
    """The voice, or the server that has it, could not speak a text."""

    code = "SPEECH_FAILED"
    http_status = 503


class OutOfMemory(EngineFailure):
    """The device has no memory left for this request."""

    code = "GPU_OOM"
    http_status = 503


class ToolCallInvalid(EngineFailure):
    """The model began a tool call but did not finish a valid one. The client gets no part of it."""

    code = "TOOL_CALL_INVALID"


class LoadFailure(EngineFailure):
    """The model cannot be loaded; the worker never becomes ready."""


def shown(value: object) -> str:
    """A JSON value as a sentence of an error quotes it: short and plain ASCII, however large."""
    told = _shown(value, SHOWN_DEPTH)
    return told if len(told) <= SHOWN_CHARACTERS else told[: SHOWN_CHARACTERS - 3] + "..."


def _shown(value: object, depth: int) -> str:
    if isinstance(value, list | dict):
        if not value:
            return "an empty list" if isinstance(value, list) else "an empty object"
        begins, ends = "[]" if isinstance(value, list) else "{}"
        if depth == 0:
            return f"{begins}...{ends}"
        members = [
            f"{_shown(key, depth)}: {_shown(inner, depth - 1)}"
            for key, inner in itertools.islice(_members(value), SHOWN_MEMBERS)
        ]
        if isinstance(value, list):
            members = [member.partition(": ")[2] for member in members]
        more = ["..."] if len(value) > SHOWN_MEMBERS else []
        return begins + ", ".join([*members, *more]) + ends
    if isinstance(value, str):
        return ascii(value) if len(value) <= 60 else ascii(value[:57]) + "..."
    if isinstance(value, int) and abs(value) > 10**15:
        return "a very large number"
    return json.dumps(value) if isinstance(value, int | float | None) else ascii(value)[:60]


def _members(value: list[Any] | dict[Any, Any]) -> Iterator[tuple[object, object]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)
