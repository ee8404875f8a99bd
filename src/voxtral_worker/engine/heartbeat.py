"""Whether the engine's loop goes on: a thread that lives may hang in a driver for ever."""

import time
from collections.abc import Callable, Iterable
from typing import Any

# A loop takes milliseconds on a GPU; on a CPU one window of a large model may take minutes.
HANG_S = {"cpu": 600.0, "cuda": 60.0}


class Heartbeat:
    """The engine's thread tells when a loop or a part of it ends; any thread may ask how long
    ago that was.

    `beats` counts what ended, whenever there was something to compute.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit_s`: seconds that may pass without a beat; `clock` gives seconds."""
        self._limit_s = limit_s
        self._clock = clock
        # None while there is nothing to do.
        self._began_s: float | None = None
        self.beats = 0
        self._followed: list[Any] = []

    def begin(self) -> None:
        """A loop begins, or the one before has ended."""
        self._began_s = self._clock()

    def rest(self) -> None:
        """There is nothing to do, for however long."""
        self._began_s = None

    def beat(self) -> None:
        """A loop has ended that computed something, or a part of one."""
        self.beats += 1
        # Another engine may run the same modules while this one has nothing to do.
        if self._began_s is not None:
            self.begin()

    def follow(self, modules: Iterable[Any]) -> None:
        """Beat whenever one of these PyTorch modules has computed, until `unfollow`.

        A large model's step may take longer on a CPU than a hang may last, its layers do not.
        """
        self._followed += [
            module.register_forward_hook(lambda *_: self.beat()) for module in modules
        ]

    def unfollow(self) -> None:
        """Leave the modules alone."""
        for hook in self._followed:
            hook.remove()
        self._followed.clear()

    @property
    def is_late(self) -> bool:
        """Whether work waits and there was no beat within the limit."""
        began_s = self._began_s
        return began_s is not None and self._clock() - began_s > self._limit_s
