"""Cuts a stream of samples into frames of 32 ms, however the stream was cut into chunks."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
# Silero's VAD takes exactly 512 samples at 16 kHz.
FRAME_SAMPLES = 512
FRAME_MS = 32


class Framer:
    """Holds less than one frame of samples."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take samples, float32 [n]; returns the frames that are now complete, float32 [k, 512]."""
        joined = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(joined) - len(joined) % FRAME_SAMPLES
        self._rest = joined[whole:]
        frames: NDArray[np.float32] = joined[:whole].reshape(-1, FRAME_SAMPLES)
        return frames

    def finish(self) -> NDArray[np.float32]:
        """The rest, filled up with silence, as one frame or none: float32 [k, 512], k is 0 or 1."""
        missing = -len(self._rest) % FRAME_SAMPLES
        return self.push(np.zeros(missing, np.float32))
