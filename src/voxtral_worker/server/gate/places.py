"""Limits how many sessions one caller may have at once, so that no caller can take them all."""

from collections import Counter

from voxtral_worker.errors import RateLimited
from voxtral_worker.settings import Settings

# The same number as the default limit of new sessions per minute.
LEAST_PLACES = 5


class Places:
    """Counts the existing sessions of each caller. Owned by the server's loop.

    Callers without a name (calls from this machine, jobs) are not counted.
    """

    def __init__(self, settings: Settings) -> None:
        a_fifth = max(LEAST_PLACES, settings.max_sessions // 5)
        self.most = settings.max_sessions_per_address or a_fifth
        self._is_on = settings.rate_limit_enabled
        self._caller_of: dict[str, str] = {}
        self._sessions: Counter[str] = Counter()

    def require_room(self, caller: str | None) -> None:
        """Raises RateLimited if the caller has as many sessions as it may have."""
        if self._is_on and caller is not None and self._sessions[caller] >= self.most:
            raise RateLimited(
                f"over the limit of {self.most} sessions that one caller may have at once: "
                "end one of them first",
                retry_after_s=5,
            )

    def take(self, session_id: str, caller: str | None) -> None:
        """Count a session."""
        if caller is not None:
            self._caller_of[session_id] = caller
            self._sessions[caller] += 1

    def leave(self, session_id: str) -> None:
        """Forget a session, counted or not."""
        caller = self._caller_of.pop(session_id, None)
        if caller is not None:
            self._sessions[caller] -= 1
            # Adding an empty Counter drops the entries that are 0.
            self._sessions += Counter()
