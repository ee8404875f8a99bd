"""Keeps the tasks alive that run as long as the worker does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from voxtral_worker import metrics

log = logging.getLogger(__name__)

# A task that fails at once must not fill the log, nor take the event loop from others.
RESTART_S = 1.0


def supervised(name: str, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    """A task that does `work` until it returns, and starts it again whenever it fails.

    A failure is logged and counted. The caller owns the task, and cancels it at the end.
    """
    return asyncio.create_task(_run(name, work), name=name)


async def _run(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await work()
        except Exception:  # house-keeping that has ended is missed by nobody until it is too late
            metrics.task_failures.labels(name).inc()
            log.exception("%s failed; it is started again", name)
        await asyncio.sleep(RESTART_S)
