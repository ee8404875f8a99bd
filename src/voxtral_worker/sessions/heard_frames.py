"""What a session has heard and may still need."""

from collections import deque

import numpy as np
from numpy.typing import NDArray


class HeardFrames:
    """Frames by their number since the session began; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._frames: deque[tuple[NDArray[np.float32], float]] = deque()
        self._first = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: NDArray[np.float32], heard_s: float) -> None:
        """The next frame, float32 [512], and when it was heard."""
        self._frames.append((frame, heard_s))

    def samples(self, first_frame: int, end_frame: int) -> NDArray[np.float32]:
        """Frames `first_frame` to before `end_frame` as one piece, float32 [512 * n]."""
        numbers = range(first_frame - self._first, end_frame - self._first)
        return np.concatenate([self._frames[number][0] for number in numbers])

    def heard_s(self, frame: int) -> float:
        """When a frame was heard."""
        return self._frames[frame - self._first][1]

    def forget_before(self, frame: int) -> None:
        """No frame before this one will be asked for."""
        while self._frames and self._first < frame:
            self._frames.popleft()
            self._first += 1

    def clear(self) -> None:
        """Nothing will be asked for any more."""
        self._frames.clear()
