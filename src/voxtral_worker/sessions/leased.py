"""A session made for somebody else to use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LeasedSession:
    """A session held by a job; `token` opens it where the API asks for credentials."""

    session_id: str
    token: str | None = None
