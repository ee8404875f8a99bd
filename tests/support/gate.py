"""Stands before a function that a thread calls, and decides when and what it answers."""

import threading
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Changeable(Generic[P, T]):
    """Calls a function that may be changed for another one, and notes who calls it."""

    def __init__(self, function: Callable[P, T]) -> None:
        self.function = function
        self.called_by: threading.Thread | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        self.called_by = threading.current_thread()
        return self.function(*args, **kwargs)


class Gate(Generic[P, T]):
    """Lets a call through when a test wants it: `entered` counts calls, `open` those let in."""

    def __init__(self, function: Callable[P, T]) -> None:
        self.function = function
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        self.entered.release()
        assert self.open.acquire(timeout=30)
        return self.function(*args, **kwargs)
