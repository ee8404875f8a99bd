"""When RunPod's job loop is left, so that every job taken is answered and the exit is quick.

By itself the SDK stops to run jobs once it hears SIGTERM, while its question for the next
job may stay open for 90 s: a job that came as the answer would never be run, and without
one the process would wait that long with nothing to do. So after the signal no further
question is asked. The SDK is told of the signal when the open question is answered, or when
it has been open for a while with no job left to do. A second signal leaves no time: jobs
fail, are answered with that, and the loop is left.

Nothing here waits or knows the SDK: `sdk.py` looks every `LOOK_S` and does what is due.
"""

import math
from enum import Enum, auto

LOOK_S = 0.1
# Time for the open question to be answered once there is nothing else to wait for.
QUESTION_GRACE_S = 2.0
# Time in which the SDK begins the jobs it has queued; it looks every 0.1 s.
QUIET_S = 0.5
# Time beyond the drain for the SDK to deliver: it tries three times, over 7 s.
DELIVERY_S = 10.0
# Time for it to deliver once, after a second signal.
LAST_DELIVERY_S = 2.0


class Phase(Enum):
    """How far the worker has come on its way out."""

    RUNNING = auto()
    # No new question for jobs is asked; open jobs go on.
    DRAINING = auto()
    # The SDK has been told to stop, and delivers what is done.
    TELLING = auto()
    # Whatever is still open is left.
    LEAVING = auto()


class Shutdown:
    """The phases in their order; times are seconds of a clock that only goes forward."""

    def __init__(self, drain_timeout_s: float) -> None:
        self.phase = Phase.RUNNING
        self.is_hurried = False
        self.question_is_over = False
        self._drain_timeout_s = drain_timeout_s
        self._last_s = math.inf
        self._quiet_since_s = 0.0

    def begin(self, now_s: float) -> None:
        """The first signal, or an engine that is lost."""
        self.phase = Phase.DRAINING
        self._last_s = now_s + self._drain_timeout_s + DELIVERY_S
        self._quiet_since_s = now_s

    def hurry(self, now_s: float) -> None:
        """The second signal."""
        self.is_hurried = True
        self._last_s = now_s + LAST_DELIVERY_S

    def look(self, now_s: float, open_jobs: int) -> Phase:
        """The phase by now; at most one step further than at the last look."""
        if open_jobs:
            self._quiet_since_s = now_s
        quiet_s = now_s - self._quiet_since_s
        match self.phase:
            case Phase.DRAINING | Phase.TELLING if now_s >= self._last_s:
                self.phase = Phase.LEAVING
            case Phase.DRAINING if (
                self.question_is_over or self.is_hurried or quiet_s >= QUESTION_GRACE_S
            ):
                self.phase, self._quiet_since_s = Phase.TELLING, now_s
            case Phase.TELLING if quiet_s >= QUIET_S:
                self.phase = Phase.LEAVING
        return self.phase
