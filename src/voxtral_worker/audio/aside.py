"""Runs blocking work beside the event loop, on a daemon thread."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_aside(work: Callable[[threading.Event], T]) -> T:
    """The result of `work`, which gets an event that is set once nobody waits for it.

    The loop's own pool would not do: its threads hold up the exit of the process until
    they are done. Raises what `work` raises.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    is_over = threading.Event()

    def settle(settler: Callable[[Any], None], value: object) -> None:
        if not result.done():
            settler(value)

    def run() -> None:
        settler: Callable[[Any], None] = result.set_result
        value: object
        try:
            value = work(is_over)
        except Exception as error:  # noqa: BLE001 - carried over to whoever waits
            settler, value = result.set_exception, error
        # The loop may be gone by now, and then nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, settler, value)

    # Lines it logs are about the same job.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="aside", daemon=True).start()
    try:
        return await result
    finally:
        is_over.set()
