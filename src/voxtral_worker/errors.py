"""The tree of everything a caller can be told.

Three branches, split by who can act: `BadInput` (the caller: change it), `Refused` (the
caller: later, or not you) and `EngineFailure` (us). Each error has a code of the public
contract; the HTTP status is part of that contract too, so it stands here once.
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
        return self.saying(f"{field}: {self.message}")

    def saying(self, message: str) -> Self:
        """The same error in other words."""
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
