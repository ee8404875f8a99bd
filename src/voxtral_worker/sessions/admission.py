"""Refuses new sessions while the sessions that already talk use up the worker's capacity.

Pure: it gets the time as an argument.
"""

from collections import deque

from voxtral_worker.errors import AtCapacity

# A session that takes no turn for so long no longer counts as talking: a new one may have its room.
TALKING_S = 30.0
# Lateness is judged by the answers of so many seconds, and by at most so many of them.
RECENT_S = 15.0
MOST_RECENT = 256
# From fewer answers than this the share of late ones is not known well enough to refuse anyone.
LEAST_RECENT = 10
RETRY_AFTER_S = 2.0


class Admission:
    """Lets new sessions in while fewer than `capacity` sessions talk.

    A session talks from its admission, and for `TALKING_S` after each of its turns. A session
    that was admitted is never refused a turn, however long it was quiet; so more than `capacity`
    may talk for a while.
    """

    def __init__(self, capacity: int, goal_ms: float) -> None:
        """`goal_ms`: 95 % of the turns should have their first delta within this time."""
        self.capacity = capacity
        self.goal_ms = goal_ms
        # When each session last talked, oldest first. `talks` keeps the order: it removes a
        # session before it adds it again at the end.
        self._talkers: dict[str, float] = {}
        # Time and first delta (ms) of the latest answers, oldest first.
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST_RECENT)

    def require_room(self, now_s: float) -> None:
        """Raises AtCapacity when one more session is too many, or answers are late already."""
        if self.talking(now_s) >= self.capacity:
            raise AtCapacity(
                f"{self.capacity} sessions talk, which is what this worker can answer in time",
                retry_after_s=RETRY_AFTER_S,
            )
        if self.is_late(now_s):
            raise AtCapacity(
                f"answers take longer than {self.goal_ms:g} ms at the moment",
                retry_after_s=RETRY_AFTER_S,
            )

    def talks(self, session_id: str, now_s: float) -> None:
        """Note that a session was admitted, or that its user speaks or writes."""
        self._talkers.pop(session_id, None)
        self._talkers[session_id] = now_s

    def leaves(self, session_id: str) -> None:
        """Note that a session has ended."""
        self._talkers.pop(session_id, None)

    def answered(self, first_delta_ms: float, now_s: float) -> None:
        """Note an answer; its first delta came `first_delta_ms` after the turn was over."""
        self._recent.append((now_s, first_delta_ms))

    def talking(self, now_s: float) -> int:
        """Number of sessions that talk."""
        while self._talkers:
            session_id, last_s = next(iter(self._talkers.items()))
            if now_s - last_s < TALKING_S:
                break
            del self._talkers[session_id]
        return len(self._talkers)

    def room(self, now_s: float) -> int:
        """Number of new sessions that would be let in."""
        if self.is_late(now_s):
            return 0
        return max(0, self.capacity - self.talking(now_s))

    def is_late(self, now_s: float) -> bool:
        """Whether more than 5 % of the latest turns missed the goal."""
        while self._recent and now_s - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
        late = sum(first_delta_ms > self.goal_ms for _, first_delta_ms in self._recent)
        return len(self._recent) >= LEAST_RECENT and late > 0.05 * len(self._recent)
