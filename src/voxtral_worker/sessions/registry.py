"""The sessions that exist, and which of them have been quiet for too long."""

from typing import Generic, Protocol, TypeVar

from voxtral_worker.errors import AtCapacity, SessionNotFound


class Entry(Protocol):
    """What the registry holds: a session, alone or with what belongs to it."""

    @property
    def session_id(self) -> str:
        """Its own id."""

    @property
    def last_activity_s(self) -> float:
        """When its client last did something."""


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """At most `max_sessions` sessions, each under its own id."""

    def __init__(self, max_sessions: int, idle_timeout_s: float) -> None:
        self.max_sessions = max_sessions
        self._idle_timeout_s = idle_timeout_s
        self._sessions: dict[str, E] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def require_room(self) -> None:
        """Raises AtCapacity when every place is taken."""
        if len(self._sessions) >= self.max_sessions:
            raise AtCapacity(
                f"all {self.max_sessions} sessions of this worker are taken", retry_after_s=5
            )

    def add(self, session: E) -> None:
        """Take a session in. Raises AtCapacity when every place is taken."""
        self.require_room()
        self._sessions[session.session_id] = session

    def get(self, session_id: str) -> E:
        """The session of an id. Raises SessionNotFound."""
        try:
            return self._sessions[session_id]
        except KeyError:
            raise SessionNotFound("session not found: create a new session") from None

    def find(self, session_id: str) -> E | None:
        """The session of an id, or None."""
        return self._sessions.get(session_id)

    def remove(self, session_id: str) -> E:
        """Take a session out. Raises SessionNotFound."""
        session = self.get(session_id)
        del self._sessions[session_id]
        return session

    def expired(self, now_s: float) -> list[E]:
        """Sessions whose last activity is older than the idle timeout."""
        # A list and not an iterator: the caller removes sessions while it goes through it.
        horizon_s = now_s - self._idle_timeout_s
        return [s for s in self._sessions.values() if s.last_activity_s <= horizon_s]

    def ids(self) -> list[str]:
        """The ids of all sessions."""
        return list(self._sessions)

    def everyone(self) -> list[E]:
        """All sessions."""
        return list(self._sessions.values())
