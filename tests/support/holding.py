"""Holds an engine's answers back for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.embedded_server import HeldEngine
from tests.support.running_server import FakeEngine


@contextmanager
def holding(engine: FakeEngine | HeldEngine) -> Iterator[None]:
    """What is asked of the engine in this context is held back after its first word."""
    engine.holds = True
    try:
        yield
    finally:
        engine.holds = False
