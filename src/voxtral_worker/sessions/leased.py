"""A session that a job creates and holds for a client."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LeasedSession:
    """`token` opens the session where the API asks for credentials; None: it asks for none."""

    session_id: str
    token: str | None = None
