"""Checks, outside the event loop, that tools can be called."""

from typing import Protocol

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.engine.tools import Toolbox


class Checker(Protocol):
    """The part of the engine that is used here."""

    def check_tools(self, box: Toolbox) -> None:
        """Check the tools; blocks. Raises BadSchema or AtCapacity."""


async def require_callable(engine: Checker, box: Toolbox) -> None:
    """Raises BadSchema that names a tool whose schema cannot be turned into a grammar.

    Compiling a schema takes time, so it runs on a thread. Raises AtCapacity if too many wait.
    """
    if box.may_call:
        await run_aside(lambda _: engine.check_tools(box))
