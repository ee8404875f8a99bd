"""Ends the SDK's job loop so that every job taken is answered and the exit is quick.

By itself the SDK stops to run jobs once it hears SIGTERM, while its question for the next
job may stay open for 90 s: a job that came as the answer would never be run, and without
one the process would wait that long with nothing to do. So after the signal no further
question is asked, and the SDK hears of it when the open one is answered, or has been open
for a while with no job left to do. A second signal leaves no time: jobs fail, are answered
with that, and the loop is left.
"""

import asyncio
import logging
import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from voxtral_worker.jobs.handler import JobHandler

log = logging.getLogger(__name__)

LOOK_S = 0.1
# Time for the open question to be answered once there is nothing else to wait for.
QUESTION_GRACE_S = 2.0
# Time in which the SDK begins the jobs it has queued; it looks every 0.1 s.
QUIET_S = 0.5
# Time beyond the drain for the SDK to deliver: it tries three times, over 7 s.
DELIVERY_S = 10.0
# Time for it to deliver once, after a second signal.
LAST_DELIVERY_S = 2.0


class Shutdown:
    """Begun by the first SIGTERM or SIGINT, or by an engine that is lost; then nothing else.

    Owned by the loop that runs the jobs. `exit_code` is 1 once the engine was lost, and 128
    and the signal's number after a second signal. `on_terminate` is told how many seconds the
    drain may take: none, when it is called for the second signal.
    """

    def __init__(
        self,
        handler: JobHandler,
        on_terminate: Callable[[float], None],
        drain_timeout_s: float,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self.exit_code = 0
        self._is_healthy = is_healthy
        self._handler = handler
        self._on_terminate = on_terminate
        self._drain_timeout_s = drain_timeout_s
        self._has_begun = False
        self._is_hurried = False
        self._last_s = math.inf
        self._question_is_over = False
        self._sdk_handlers: dict[int, Any] = {}
        self._sdk_tasks: set[asyncio.Task[Any]] = set()
        self._leaving: asyncio.Task[None] | None = None

    @property
    def scaler(self) -> Any:
        """The SDK's own, once it has asked for a job: its signal handler is a method of it."""
        return getattr(self._sdk_handlers.get(signal.SIGTERM), "__self__", None)

    def before_question(self) -> None:
        """Called before the SDK asks for jobs, which a worker that cannot do any must not."""
        if not self._sdk_tasks:
            self._attach()
        if not self._has_begun and not self._is_healthy():
            log.critical("runpod: the engine is lost, leaving so that another worker is started")
            self.exit_code = 1
            self._begin(signal.SIGTERM)

    def _attach(self) -> None:
        """Go before the SDK's signal handlers; the SDK's tasks are those that run now."""
        loop = asyncio.get_running_loop()
        self._sdk_tasks = asyncio.all_tasks(loop)

        def hear(number: int, _: FrameType | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._begin, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            self._sdk_handlers[number] = signal.getsignal(number)
            signal.signal(number, hear)

    def _begin(self, number: int) -> None:
        if self._has_begun:
            self._hurry(number)
            return
        self._has_begun = True
        open_jobs = self._handler.open_jobs
        log.info("runpod: %s with %d jobs open", signal.Signals(number).name, open_jobs)
        self._handler.drain(self._drain_timeout_s)
        scaler = self.scaler
        if hasattr(scaler, "jobs_fetcher"):
            scaler.jobs_fetcher = self._ask_nobody
        else:
            self._question_is_over = True
        self._last_s = time.monotonic() + self._drain_timeout_s + DELIVERY_S
        self._leaving = asyncio.create_task(self._leave(number), name="shutdown")
        self._on_terminate(self._drain_timeout_s)

    def _hurry(self, number: int) -> None:
        if self._is_hurried:
            return
        self._is_hurried = True
        name, open_jobs = signal.Signals(number).name, self._handler.open_jobs
        log.warning("runpod: %s again: %d open jobs fail now", name, open_jobs)
        self.exit_code = self.exit_code or 128 + number
        self._last_s = time.monotonic() + LAST_DELIVERY_S
        self._handler.give_up()
        self._on_terminate(0.0)

    async def _ask_nobody(self, *_: object) -> None:
        self._question_is_over = True
        await asyncio.sleep(LOOK_S)

    async def _leave(self, number: int) -> None:
        now_s = time.monotonic
        quiet_since_s = now_s()
        sdk_knows = False
        while now_s() < self._last_s:
            await asyncio.sleep(LOOK_S)
            if self._handler.open_jobs:
                quiet_since_s = now_s()
            quiet_s = now_s() - quiet_since_s
            is_over = self._question_is_over or self._is_hurried or quiet_s >= QUESTION_GRACE_S
            if not sdk_knows and is_over:
                self._sdk_handlers[number](number, None)
                sdk_knows, quiet_since_s = True, now_s()
            elif sdk_knows and quiet_s >= QUIET_S:
                break
        log.info("runpod: leaving with %d jobs open", self._handler.open_jobs)
        for task in self._sdk_tasks:
            task.cancel()
