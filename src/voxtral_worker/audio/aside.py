"""Runs blocking work outside the event loop, on a daemon thread."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_aside(work: Callable[[threading.Event], T]) -> T:
    """Run `work` on a thread of its own and return its result. Raises what `work` raises.

    `work` gets an event, which is set once the caller no longer waits for the result. The loop's
    own thread pool is not used, because the process cannot exit before its threads are done.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    is_over = threading.Event()

    def settle(settler: Callable[[Any], None], value: object) -> None:
        # The caller may have been cancelled since.
        if not result.done():
            settler(value)

    def run() -> None:
        settler: Callable[[Any], None] = result.set_result
        value: object
        try:
            value = work(is_over)
        except Exception as error:  # noqa: BLE001 - passed to the caller
            settler, value = result.set_exception, error
        # RuntimeError: the loop is closed, so no caller waits for the result any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, settler, value)

    # The thread logs with the same session or job id as the caller.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="aside", daemon=True).start()
    try:
        return await result
    finally:
        is_over.set()
