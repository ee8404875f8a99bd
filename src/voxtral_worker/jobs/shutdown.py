"""Decides when RunPod's job loop ends, so that every taken job is answered and the exit is quick.

After SIGTERM the SDK itself runs no more jobs. But its request for the next job may stay open for
90 s. A job that came with the answer would be lost, and without a job the process would wait
those 90 s for nothing. So after the signal the worker

1. makes no new request for jobs (DRAINING);
2. passes the signal to the SDK once the open request is answered, or has been open for a while
   with no job left to do (TELLING);
3. leaves the loop once no job is open any more, or the time is over (LEAVING).

After a second signal open jobs fail at once, are answered with the error, and the loop is left.

Pure: it gets the time as an argument and does not know the SDK. `sdk.py` asks it every `LOOK_S` and
does what is due.
"""

import math
from enum import Enum, auto

LOOK_S = 0.1
# How long to wait for the answer to the open request once no job is left to do.
QUESTION_GRACE_S = 2.0
# How long no job must be open. The SDK looks into its queue of jobs every 0.1 s, so by then it has
# begun them all.
QUIET_S = 0.5
# Time after the drain for the SDK to deliver answers: it tries three times, over 7 s.
DELIVERY_S = 10.0
# Time after a second signal for the SDK to deliver once.
LAST_DELIVERY_S = 2.0


class Phase(Enum):
    """The phases of a shutdown."""

    RUNNING = auto()
    # No new request for jobs is made; open jobs continue.
    DRAINING = auto()
    # The SDK has got the signal, and delivers what is done.
    TELLING = auto()
    # The loop ends, whatever is still open.
    LEAVING = auto()


class Shutdown:
    """Goes through the phases in their order. Times are seconds of a monotonic clock."""

    def __init__(self, drain_timeout_s: float) -> None:
        self.phase = Phase.RUNNING
        # Whether a second signal has come.
        self.is_hurried = False
        # Whether the open request for jobs has been answered. `sdk.py` sets it.
        self.question_is_over = False
        self._drain_timeout_s = drain_timeout_s
        # The latest time at which the loop ends.
        self._last_s = math.inf
        # Since when no job has been open.
        self._quiet_since_s = 0.0

    def begin(self, now_s: float) -> None:
        """Start the shutdown: a signal has come, or the engine is lost."""
        self.phase = Phase.DRAINING
        self._last_s = now_s + self._drain_timeout_s + DELIVERY_S
        self._quiet_since_s = now_s

    def hurry(self, now_s: float) -> None:
        """Shorten the shutdown: a second signal has come."""
        self.is_hurried = True
        self._last_s = now_s + LAST_DELIVERY_S

    def look(self, now_s: float, open_jobs: int) -> Phase:
        """The phase now. It moves at most one step with each call."""
        if open_jobs:
            self._quiet_since_s = now_s
        quiet_s = now_s - self._quiet_since_s
        match self.phase:
            # The latest time counts in both phases: jobs that are not over by then are left.
            case Phase.DRAINING | Phase.TELLING if now_s >= self._last_s:
                self.phase = Phase.LEAVING
            case Phase.DRAINING if (
                self.question_is_over or self.is_hurried or quiet_s >= QUESTION_GRACE_S
            ):
                # Count the quiet time from here: the SDK may only now begin jobs of its queue.
                self.phase, self._quiet_since_s = Phase.TELLING, now_s
            case Phase.TELLING if quiet_s >= QUIET_S:
                self.phase = Phase.LEAVING
        return self.phase
