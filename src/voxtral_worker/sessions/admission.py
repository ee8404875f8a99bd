"""Refuses newcomers while those who talk already need what the worker has.

Pure: it is told the time.
"""

from collections import deque

from voxtral_worker.errors import AtCapacity

# Who has said nothing for so long leaves room for somebody else.
TALKING_S = 30.0
# The latest answers say how it goes now.
RECENT_S = 15.0
MOST_RECENT = 256
# Fewer answers than these say nothing of a 95th percentile.
LEAST_RECENT = 10
RETRY_AFTER_S = 2.0


class Admission:
    """At most `capacity` sessions talk, as far as newcomers can help it.

    A session talks from its admission, and for a while after each of its turns. One that was
    quiet is never refused its next turn: it was admitted.
    """

    def __init__(self, capacity: int, goal_ms: float) -> None:
        """`goal_ms`: within it 95 % of the turns should be begun to be answered."""
        self.capacity = capacity
        self.goal_ms = goal_ms
        # By the time of the last sign of talk, oldest first.
        self._talkers: dict[str, float] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST_RECENT)

    def require_room(self, now_s: float) -> None:
        """Raises AtCapacity when one more would be too many, or answers are late already."""
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
        """A session was admitted, or somebody speaks or writes in it."""
        self._talkers.pop(session_id, None)
        self._talkers[session_id] = now_s

    def leaves(self, session_id: str) -> None:
        """A session has ended."""
        self._talkers.pop(session_id, None)

    def answered(self, first_delta_ms: float, now_s: float) -> None:
        """A turn was answered, its first delta so long after it was over."""
        self._recent.append((now_s, first_delta_ms))

    def talking(self, now_s: float) -> int:
        """Sessions that talk."""
        while self._talkers:
            session_id, last_s = next(iter(self._talkers.items()))
            if now_s - last_s < TALKING_S:
                break
            del self._talkers[session_id]
        return len(self._talkers)

    def room(self, now_s: float) -> int:
        """How many more may come."""
        if self.is_late(now_s):
            return 0
        return max(0, self.capacity - self.talking(now_s))

    def is_late(self, now_s: float) -> bool:
        """Whether more than one in twenty of the latest turns missed the goal."""
        while self._recent and now_s - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
        late = sum(first_delta_ms > self.goal_ms for _, first_delta_ms in self._recent)
        return len(self._recent) >= LEAST_RECENT and late > 0.05 * len(self._recent)
