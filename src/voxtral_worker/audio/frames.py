"""Cuts a stream of samples into frames of 32 ms, whatever the chunks were."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 512
FRAME_MS = 32


class Framer:
    """Holds less than one frame of samples."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Frames that are whole now, float32 [k, 512], from samples, float32 [n]."""
        joined = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(joined) - len(joined) % FRAME_SAMPLES
        self._rest = joined[whole:]
        frames: NDArray[np.float32] = joined[:whole].reshape(-1, FRAME_SAMPLES)
        return frames

    def finish(self) -> NDArray[np.float32]:
        """What is left as one frame filled up with silence, float32 [k, 512], k is 0 or 1."""
        missing = -len(self._rest) % FRAME_SAMPLES
        return self.push(np.zeros(missing, np.float32))
