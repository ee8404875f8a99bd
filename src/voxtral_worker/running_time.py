"""A clock that stands still while this process does not run.

A machine may be paused, asleep or so busy that no thread of this process runs for many seconds.
By the usual clock every thread would then look as if it hung. A watcher that did not run itself
has learned nothing about the others, so the time in which no thread read this clock does not count.
"""

import threading
import time
from collections.abc import Callable

# The most that counts between two readings, in seconds. Several threads read the clock more often:
# the server four times a second (`app.py`), and each watcher.
MOST_GAP_S = 1.0


class RunningTime:
    """Seconds in which this process ran. Any thread may read it.

    It is never ahead of the usual clock, and each reading is at least as late as the last one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: gives seconds, and continues while the process does not run."""
        self._clock = clock
        self._lock = threading.Lock()
        self._read_s = clock()
        self._ran_s = 0.0

    def __call__(self) -> float:
        """The seconds until now."""
        with self._lock:
            now_s = self._clock()
            self._ran_s += min(now_s - self._read_s, MOST_GAP_S)
            self._read_s = now_s
            return self._ran_s


# One for the whole process, as it runs or stands still as a whole.
running_s = RunningTime()
