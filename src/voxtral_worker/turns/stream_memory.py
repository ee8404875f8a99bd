"""Keeps what the VAD's network remembers of each session between two ticks."""

from collections.abc import Iterable

import numpy as np

from voxtral_worker.turns.recording import CONTEXT_SAMPLES, STATE_SHAPE


class StreamMemory:
    """Holds what the network remembers of each session, in one array with a row for each.

    The VAD's thread alone gives rows to sessions. It gives a row again only between two ticks, so
    that a tick under way never writes what one session said into another's row.
    """

    def __init__(self) -> None:
        # The row of each session.
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        # Rows of sessions that were forgotten. They are free after the tick under way.
        self._let_go: list[int] = []
        # The end of the frame before, float32 [rows, 64], and the network's own state, float32
        # [2, rows, 128].
        self.contexts = np.zeros((0, CONTEXT_SAMPLES), np.float32)
        self.states = np.zeros((STATE_SHAPE[0], 0, STATE_SHAPE[1]), np.float32)

    def rows_of(self, keys: Iterable[str]) -> list[int]:
        """The rows of some sessions; those of new ones are zeros. Call it between two ticks."""
        self._free += self._let_go
        self._let_go.clear()
        return [self._rows[key] if key in self._rows else self._new(key) for key in keys]

    def forget(self, key: str) -> None:
        """Forget a session. If it comes again, it starts with zeros."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._let_go.append(row)

    def _new(self, key: str) -> int:
        if not self._free:
            more = max(16, len(self.contexts))
            self._free += range(len(self.contexts), len(self.contexts) + more)
            self.contexts = np.pad(self.contexts, ((0, more), (0, 0)))
            self.states = np.pad(self.states, ((0, 0), (0, more), (0, 0)))
        row = self._rows[key] = self._free.pop()
        self.contexts[row] = 0
        self.states[:, row] = 0
        return row
