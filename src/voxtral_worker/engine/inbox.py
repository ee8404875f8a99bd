"""Where requests wait that the engine's thread has not made sequences of.

Callers put requests in from any thread; only the engine's thread takes them out.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import Urgency
from voxtral_worker.errors import AtCapacity

log = logging.getLogger(__name__)

# Requests of each kind that may wait: new ones, jobs, and those that wait for a grammar.
INBOX_SIZE = 1024
# Owners that may wait to be forgotten; an engine that hangs forgets none.
MOST_LEFT = 10_000
# For how long jobs are taken out before the next step.
JOBS_STEP_S = 0.005
# For how long an engine without work waits for a request, before it looks around.
IDLE_WAIT_S = 0.5


@dataclass(eq=False)
class Asked:
    """A request that waits; `submitted_s` is on the monotonic clock."""

    generation: Generation
    submitted_s: float
    # Whether its grammar is being compiled for it.
    has_asked: bool = False


@dataclass(frozen=True)
class Left:
    """An owner that is gone, so that nothing has to be kept for its next turn."""

    owner: str


class Inbox:
    """Requests in order of arrival, except that jobs let everything else past.

    To make the prompt of a job may take 30 ms (half a million characters), so jobs are taken
    out a few at a time, between steps.
    """

    def __init__(self) -> None:
        # None wakes the engine's thread up.
        self._new: queue.Queue[Asked | None] = queue.Queue(INBOX_SIZE)
        self._jobs: deque[Asked] = deque()
        # Requests whose grammar is being compiled.
        self._uncompiled: list[Asked] = []
        self._left: deque[Left] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait here, without those that wait for a grammar."""
        return self._new.qsize() + len(self._jobs)

    @property
    def has_jobs(self) -> bool:
        """Whether jobs wait here."""
        return bool(self._jobs)

    def put(self, generation: Generation) -> None:
        """Let a request wait. Raises AtCapacity when too many do. Any thread."""
        is_full = len(self._uncompiled) >= INBOX_SIZE
        if generation.urgency == Urgency.JOB:
            is_full = is_full or len(self._jobs) >= INBOX_SIZE
        try:
            if is_full:
                raise queue.Full
            self._new.put_nowait(Asked(generation, time.monotonic()))
        except queue.Full:
            raise AtCapacity("too many requests wait for the engine", retry_after_s=1) from None

    def leave(self, owner: str) -> None:
        """Note that an owner is gone; also when the inbox is full. Any thread."""
        if len(self._left) >= MOST_LEFT:
            # Its blocks are the first to go when others need them.
            log.error("engine: too many owners wait to be forgotten, one is not")
            return
        self._left.append(Left(owner))
        self.wake()

    def wake(self) -> None:
        """Let the engine's thread look around. Any thread."""
        with suppress(queue.Full):
            self._new.put_nowait(None)

    def take(self, *, wait: bool) -> Iterator[Asked | Left]:
        """Take out all new requests but jobs, then the owners that are gone.

        With `wait` returns when something has come, or after IDLE_WAIT_S seconds.
        """
        item = self._next(wait=wait)
        # An owner that is gone by now has no request behind those in the inbox. If it were
        # forgotten before its last request, that one's blocks would be kept without use.
        left = len(self._left)
        while item is not None or not self._new.empty():
            if item is not None and item.generation.urgency == Urgency.JOB:
                self._jobs.append(item)
            elif item is not None:
                yield item
            item = self._next(wait=False)
        for _ in range(left):
            yield self._left.popleft()

    def take_jobs(self) -> Iterator[Asked]:
        """Take jobs out, at least one, until JOBS_STEP_S is over: those who speak wait for them."""
        until_s = time.monotonic() + JOBS_STEP_S
        while self._jobs:
            yield self._jobs.popleft()
            if time.monotonic() > until_s:
                return

    def hold(self, asked: Asked) -> None:
        """Let a request wait for its grammar."""
        self._uncompiled.append(asked)

    def take_held(self) -> Iterator[Asked]:
        """Take out the requests that wait for a grammar; they may be held again."""
        held, self._uncompiled = self._uncompiled, []
        yield from held

    def take_rest(self) -> Iterator[Asked]:
        """Take out everything that waits, in order to refuse it."""
        # Jobs are among what is behind the others.
        new = [item for item in self.take(wait=False) if isinstance(item, Asked)]
        yield from [*new, *self._jobs, *self._uncompiled]
        self._jobs.clear()
        self._uncompiled.clear()

    def _next(self, *, wait: bool) -> Asked | None:
        try:
            return self._new.get(wait, IDLE_WAIT_S if wait else None)
        except queue.Empty:
            return None
