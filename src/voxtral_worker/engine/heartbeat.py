"""Detects that the engine hangs: its thread may be alive and wait in a driver without end."""

from collections.abc import Callable, Iterable
from typing import Any

from voxtral_worker.running_time import running_s

# Seconds. A step takes milliseconds on a GPU; on a CPU a window of a large model takes minutes.
HANG_S = {"cpu": 600.0, "cuda": 60.0}


class Heartbeat:
    """The engine's thread beats at the end of each step and of its parts; any thread may ask
    whether the last beat is too long ago.

    `beats` counts all beats.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = running_s) -> None:
        """`limit_s`: seconds that may pass without a beat; `clock` gives seconds.

        By its own clock an engine is not late after a time in which the whole process stood still.
        """
        self._limit_s = limit_s
        self._clock = clock
        # The time of the last beat; None while there is nothing to do.
        self._began_s: float | None = None
        self.beats = 0
        self._followed: list[Any] = []

    def begin(self) -> None:
        """Work begins: from now on a beat is expected."""
        self._began_s = self._clock()

    def rest(self) -> None:
        """There is nothing to do, so no beat is expected."""
        self._began_s = None

    def beat(self) -> None:
        """A step that computed something has ended, or a part of one."""
        self.beats += 1
        # Another engine may run the same modules while this one has nothing to do.
        if self._began_s is not None:
            self.begin()

    def follow(self, modules: Iterable[Any]) -> None:
        """Beat whenever one of these PyTorch modules has computed, until `unfollow`.

        On a CPU a large model's step may take longer than the limit. Its layers do not.
        """
        self._followed += [
            module.register_forward_hook(lambda *_: self.beat()) for module in modules
        ]

    def unfollow(self) -> None:
        """Remove the hooks from the modules."""
        for hook in self._followed:
            hook.remove()
        self._followed.clear()

    @property
    def is_late(self) -> bool:
        """Whether work waits and there was no beat within the limit."""
        began_s = self._began_s
        return began_s is not None and self._clock() - began_s > self._limit_s
