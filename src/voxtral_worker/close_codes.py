"""All codes with which a WebSocket is closed, and their default reasons."""

from enum import IntEnum


class CloseCode(IntEnum):
    """Codes below 4000 are WebSocket's own (RFC 6455 and IANA); the others are the worker's."""

    DONE = 1000
    LOST = 1006
    POLICY = 1008
    GOING_AWAY = 1012
    TRY_LATER = 1013
    INVALID = 4400
    NOT_FOUND = 4404
    EXPIRED = 4408
    REPLACED = 4409
    LIMITS_IGNORED = 4429

    @property
    def reason(self) -> str:
        """The default reason."""
        return _REASONS[self]


_REASONS = {
    CloseCode.DONE: "session deleted",
    CloseCode.LOST: "connection lost",
    CloseCode.POLICY: "the client does not read",
    CloseCode.GOING_AWAY: "worker going away: reconnect",
    CloseCode.TRY_LATER: "try again later",
    CloseCode.INVALID: "the request cannot be used",
    CloseCode.NOT_FOUND: "session not found",
    CloseCode.EXPIRED: "session expired",
    CloseCode.REPLACED: "replaced by a newer connection",
    CloseCode.LIMITS_IGNORED: "limits ignored for too long",
}
