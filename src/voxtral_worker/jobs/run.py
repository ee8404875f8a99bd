"""One job under way: the task that does its work, and the outlet for its pieces.

The SDK may stop reading at any piece, and report it late or never. So the work has a task of its
own. Three things end it early: the generator is closed, the SDK's task for the job is over, or the
SDK does not ask for the next piece in time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from voxtral_worker.errors import EngineFailure, WorkerError
from voxtral_worker.jobs.outlet import Outlet
from voxtral_worker.logs import context_about

log = logging.getLogger(__name__)


class JobRun:
    """Runs the work of one job until it is done, failed or stopped; then its outlet ends."""

    def __init__(
        self,
        job_id: str,
        work: Callable[[Outlet], Awaitable[None]],
        *,
        streams: bool,
        stall_s: float | None,
    ) -> None:
        """Start the work.

        `streams`: whether the caller gets deltas. `stall_s`: how long the SDK may take until it
        asks for the next piece; None: as long as it takes.
        """
        self.job_id = job_id
        self.streams = streams
        self.outlet = Outlet()
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._watchdog: asyncio.TimerHandle | None = None
        # The SDK's task, which iterates over the generator.
        self._reader = asyncio.current_task()
        if self._reader is not None:
            self._reader.add_done_callback(self._reader_is_gone)
        self._owner = asyncio.create_task(
            self._do(work), name=f"job {job_id}", context=context_about(job_id=job_id)
        )

    @property
    def is_working(self) -> bool:
        """Whether the work is not over."""
        return not self._owner.done()

    def hand_out(self) -> None:
        """Give a piece to the SDK. If it does not ask for the next one in time, the work ends."""
        if self._stall_s is not None:
            self._watchdog = self._loop.call_later(self._stall_s, self._stalled)

    def taken(self) -> None:
        """Note that the SDK asks for the next piece."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def fail(self, error: WorkerError) -> None:
        """End the work with an error, unless it is already done."""
        if self.is_working:
            self.outlet.end(error)
            self._cancel()

    def stop(self) -> None:
        """End the work: its pieces are no longer read."""
        self.taken()
        if self._reader is not None:
            self._reader.remove_done_callback(self._reader_is_gone)
        self._cancel()

    def _cancel(self) -> None:
        # Cancel once only: a second cancel would interrupt the clean-up of the work.
        if not self._owner.cancelling():
            self._owner.cancel()

    async def _do(self, work: Callable[[Outlet], Awaitable[None]]) -> None:
        error: WorkerError | None = None
        try:
            await work(self.outlet)
        except WorkerError as told:
            error = told
        except Exception:  # noqa: BLE001 - the edge of a job: a bug must not go unanswered
            log.exception("a job failed")
            error = EngineFailure("the worker failed on this job")
        self.outlet.end(error)

    def _stalled(self) -> None:
        log.warning(
            "a piece was not taken", extra={"job_id": self.job_id, "seconds": self._stall_s}
        )
        self.fail(EngineFailure(f"the output was not taken for {self._stall_s:g} s"))

    def _reader_is_gone(self, _: object) -> None:
        self.stop()
