"""Answers a health job."""

from collections.abc import Callable
from typing import Any

from voxtral_worker.jobs.outlet import Outlet


async def report_health(health: Callable[[], dict[str, Any]], outlet: Outlet) -> None:
    """Hand out the answer of `GET /health`."""
    outlet.add(health())
