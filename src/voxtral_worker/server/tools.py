"""Looks whether tools can be called, beside the event loop."""

from typing import Protocol

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.engine.tools import Toolbox


class Checker(Protocol):
    """What is used of the engine."""

    def check_tools(self, box: Toolbox) -> None:
        """Blocks. Raises BadSchema, or AtCapacity."""


async def require_callable(engine: Checker, box: Toolbox) -> None:
    """Raises BadSchema that names the tool whose schema no call can be made to follow."""
    if box.may_call:
        await run_aside(lambda _: engine.check_tools(box))
