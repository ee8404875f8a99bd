"""Rate limits over rolling windows. Pure: they get the time as an argument."""

from collections import deque
from dataclasses import dataclass

# Entries closer together than this share of the window are merged. So a limit holds about 1,000
# entries at most, however many units it counts.
_GRAIN = 1 / 1000


@dataclass(frozen=True)
class Verdict:
    """Whether the units were allowed.

    `remaining`: units that still fit. `reset_s`: when the oldest units stop counting.
    `retry_after_s`: how long until these units would fit; 0 if they were allowed.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_s: float
    retry_after_s: float


class RollingLimit:
    """At most `limit` units within any `period_s` seconds; refused units do not count.

    More than `limit` units at once are allowed when nothing else counts. They then fill the
    periods that follow. Otherwise a request larger than the limit could never be allowed.
    """

    def __init__(self, limit: int, period_s: float) -> None:
        self._limit = limit
        self._period_s = period_s
        # When an entry was opened, when it last grew, and its units. Times rise. They are in the
        # future for the units that one `take` had beyond the limit.
        self._entries: deque[tuple[float, float, int]] = deque()
        self._used = 0

    def take(self, now_s: float, units: int = 1) -> Verdict:
        """Count units if they fit."""
        self._forget(now_s)
        allowed = self._fits(units)
        if allowed:
            self._count(now_s, units)
        return self._verdict(allowed, now_s, units)

    def look(self, now_s: float, units: int = 1) -> Verdict:
        """The verdict that `take` would give, without counting the units."""
        self._forget(now_s)
        return self._verdict(self._fits(units), now_s, units)

    def _fits(self, units: int) -> bool:
        return self._used + min(units, self._limit) <= self._limit

    def _verdict(self, allowed: bool, now_s: float, units: int) -> Verdict:
        oldest_s = self._entries[0][1] if self._entries else now_s
        return Verdict(
            allowed,
            self._limit,
            max(0, self._limit - self._used),
            oldest_s + self._period_s,
            0.0 if allowed else self._wait(now_s, units),
        )

    def _count(self, now_s: float, units: int) -> None:
        self._used += units
        first = min(units, self._limit)
        if self._entries and now_s - self._entries[-1][0] < self._period_s * _GRAIN:
            opened_s, _, before = self._entries.pop()
            self._entries.append((opened_s, now_s, before + first))
        else:
            self._entries.append((now_s, now_s, first))
        # Units beyond the limit go into entries of the periods to come, a full limit each.
        left, at_s = units - first, now_s
        while left > 0:
            at_s += self._period_s
            self._entries.append((at_s, at_s, min(left, self._limit)))
            left -= self._limit

    def _forget(self, now_s: float) -> None:
        while self._entries and self._entries[0][1] <= now_s - self._period_s:
            self._used -= self._entries.popleft()[2]

    def _wait(self, now_s: float, units: int) -> float:
        # Go through the entries, oldest first, until enough units have stopped counting.
        free, wanted = self._limit - self._used, min(units, self._limit)
        oldest = iter(self._entries)
        while free < wanted:
            _, at_s, used = next(oldest)
            free += used
        return at_s + self._period_s - now_s
