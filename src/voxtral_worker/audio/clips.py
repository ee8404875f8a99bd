"""Reads whole audio files of any kind."""

import atexit
import threading

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.decoder.process import Decoder

# One for all doors: how many files are decoded at once is a matter of the machine.
DECODER = Decoder()
atexit.register(DECODER.stop)


def read_clip(
    data: bytes, *, max_seconds: float, is_over: threading.Event | None = None
) -> NDArray[np.float32]:
    """Samples, float32 [n], mono, 16 kHz, of a file. Blocks, until `is_over` at the most.

    Raises BadAudio for what cannot be decoded, TooLarge for what is longer than
    `max_seconds`, AtCapacity when others leave no room, EngineFailure without a decoder.
    """
    return DECODER.decode(data, max_seconds, is_over or threading.Event())
