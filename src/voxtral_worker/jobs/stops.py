"""Stops of jobs that reach the worker before the SDK has begun them.

The SDK forgets the stop of a job that is still on its way or in its queue: the job then
runs to its end for nobody. And a task that it cancels before the task's first step never
leaves the SDK's count of jobs: the worker takes one job fewer from then on. So the SDK
hears only of stops of jobs that have begun; the handler keeps the others.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from voxtral_worker.jobs.handler import JobHandler

log = logging.getLogger(__name__)


class Stops:
    """Stands between the SDK's poll for stops and its scaler, on the loop that runs the jobs."""

    def __init__(self, handler: JobHandler) -> None:
        self._handler = handler
        self._scaler: Any = None
        self._poll: Callable[[Any], Awaitable[list[str]]] | None = None

    def follow(self, scaler: Any) -> None:
        """Read the stops first, from now on; the SDK offers no setting for it on the platform."""
        if self._scaler is not None:
            return
        self._scaler = scaler
        if not hasattr(scaler, "stop_signals_fetcher"):
            log.warning("runpod: this SDK has another way to stop jobs, early stops may be lost")
            return
        self._poll = scaler.stop_signals_fetcher
        scaler.stop_signals_fetcher = self._stops_of_begun

    async def _stops_of_begun(self, connection: Any) -> list[str]:
        assert self._poll is not None
        return self._handler.stops_arrived(await self._poll(connection))
