"""Cuts a long recording into windows where nobody is in the middle of a word."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import SAMPLE_RATE, WINDOW_SAMPLES

Samples: TypeAlias = NDArray[np.float32]

FRAME_SAMPLES = SAMPLE_RATE // 10
# A window keeps at least 25 of its 30 s, so that few are needed.
SEARCH_SAMPLES = 5 * SAMPLE_RATE


def cut_at_pauses(samples: Samples) -> Iterator[Samples]:
    """Windows of at most 30 s that joined are the recording (float32, [n], 16 kHz).

    Each cut but the last is in the middle of the quietest tenth of a second of the last
    five seconds.
    """
    start = 0
    while len(samples) - start > WINDOW_SAMPLES:
        end = start + WINDOW_SAMPLES
        frames = samples[end - SEARCH_SAMPLES : end].reshape(-1, FRAME_SAMPLES)
        quietest = int(np.argmin(np.square(frames).sum(axis=1)))
        cut = end - SEARCH_SAMPLES + quietest * FRAME_SAMPLES + FRAME_SAMPLES // 2
        yield samples[start:cut]
        start = cut
    yield samples[start:]
