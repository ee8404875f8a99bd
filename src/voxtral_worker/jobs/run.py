"""One job under way: the task that does its work, and the outlet its pieces leave by.

The SDK may stop reading at any piece and say so late or never. So the work belongs to a
task of its own, which three things can end early: the generator is closed, the SDK's own
task for the job is over, or a piece is not followed by a call for the next one in time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from voxtral_worker.errors import EngineFailure, WorkerError
from voxtral_worker.jobs.outlet import Outlet
from voxtral_worker.logs import context_about

log = logging.getLogger(__name__)


class JobRun:
    """Its work is over once the run is stopped, failed or done; its outlet then ends."""

    def __init__(
        self,
        job_id: str,
        work: Callable[[Outlet], Awaitable[None]],
        *,
        streams: bool,
        stall_s: float | None,
    ) -> None:
        """`stall_s`: how long a piece may be on its way; None: as long as it takes."""
        self.job_id = job_id
        self.streams = streams
        self.outlet = Outlet()
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._watchdog: asyncio.TimerHandle | None = None
        self._reader = asyncio.current_task()
        if self._reader is not None:
            self._reader.add_done_callback(self._reader_is_gone)
        self._owner = asyncio.create_task(
            self._do(work), name=f"job {job_id}", context=context_about(job_id=job_id)
        )

    @property
    def is_working(self) -> bool:
        """Whether the work is still under way."""
        return not self._owner.done()

    def hand_out(self) -> None:
        """A piece goes to the SDK; if nobody comes back for the next, the work ends."""
        if self._stall_s is not None:
            self._watchdog = self._loop.call_later(self._stall_s, self._stalled)

    def taken(self) -> None:
        """The SDK came back."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def fail(self, error: WorkerError) -> None:
        """End the work with an error, unless it is already done."""
        if self.is_working:
            self.outlet.end(error)
            self._cancel()

    def stop(self) -> None:
        """End the work; nobody reads any more."""
        self.taken()
        if self._reader is not None:
            self._reader.remove_done_callback(self._reader_is_gone)
        self._cancel()

    def _cancel(self) -> None:
        # Once only: a second one would interrupt the work's own way out.
        if not self._owner.cancelling():
            self._owner.cancel()

    async def _do(self, work: Callable[[Outlet], Awaitable[None]]) -> None:
        error: WorkerError | None = None
        try:
            await work(self.outlet)
        except WorkerError as told:
            error = told
        except Exception:  # noqa: BLE001 - the job boundary: one of the named places
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
