"""Restarts background tasks that fail. These tasks run as long as the worker does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from voxtral_worker import metrics

log = logging.getLogger(__name__)

# Without this pause, a task that always fails at once would fill the log and block the event loop.
RESTART_S = 1.0


def supervised(name: str, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    """A task that runs `work` until it returns, and runs it again each time it fails.

    Failures are logged and counted. The caller owns the task and cancels it at the end.
    """
    return asyncio.create_task(_run(name, work), name=name)


async def _run(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await work()
        except Exception:  # no one would notice that a background task has ended
            metrics.task_failures.labels(name).inc()
            log.exception("%s failed; starting it again", name)
        await asyncio.sleep(RESTART_S)
