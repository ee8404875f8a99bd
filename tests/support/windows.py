"""Cuts a recording into windows, as pieces of one user turn."""

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import WINDOW_SAMPLES, Audio


def windows_of(samples: NDArray[np.float32]) -> tuple[Audio, ...]:
    """Cut audio (float32, [n], 16 kHz) into pieces of one window; the last may be shorter."""
    return tuple(
        Audio(samples[start : start + WINDOW_SAMPLES])
        for start in range(0, max(len(samples), 1), WINDOW_SAMPLES)
    )
