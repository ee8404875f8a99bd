"""What a session has heard and may still need."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 512
FRAME_BYTES = FRAME_SAMPLES * 4


class HeardFrames:
    """Frames by their number since the session began; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._frames: deque[tuple[NDArray[np.float32], float, int]] = deque()
        self._first = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def bytes(self) -> int:
        """What the frames take."""
        return len(self._frames) * FRAME_BYTES

    def add(self, frame: NDArray[np.float32], heard_s: float, audio_bytes: int) -> None:
        """The next frame, float32 [512], when it was heard, and the bytes up to its end."""
        # A view would hold the whole chunk that it came with.
        self._frames.append((frame.copy(), heard_s, audio_bytes))

    def restore(
        self, samples: NDArray[np.float32], first_frame: int, first_bytes: int, heard_s: float
    ) -> None:
        """Hold frames again that were forgotten last, float32 [512 * n], from `first_frame` on.

        `first_bytes` of audio had come before them. The frames after them are held.
        """
        frames = samples.reshape(-1, FRAME_SAMPLES)
        end_bytes = self._frames[0][2]
        step = (end_bytes - first_bytes) / (len(frames) + 1)
        for number in range(len(frames) - 1, -1, -1):
            self._frames.appendleft(
                (frames[number], heard_s, int(first_bytes + step * (number + 1)))
            )
        self._first = first_frame

    def samples(self, first_frame: int, end_frame: int) -> NDArray[np.float32]:
        """Frames `first_frame` to before `end_frame` as one piece, float32 [512 * n]."""
        numbers = range(first_frame - self._first, end_frame - self._first)
        return np.concatenate([self._frames[number][0] for number in numbers])

    def heard_s(self, frame: int) -> float:
        """When a frame was heard."""
        return self._frames[frame - self._first][1]

    def audio_bytes(self, frame: int) -> int:
        """How many bytes of audio had come when a frame was whole."""
        return self._frames[frame - self._first][2]

    def forget_before(self, frame: int) -> None:
        """No frame before this one will be asked for."""
        while self._frames and self._first < frame:
            self._frames.popleft()
            self._first += 1

    def clear(self) -> None:
        """Nothing will be asked for any more."""
        self._frames.clear()
