"""Reads whole audio files of any kind."""

import atexit
import threading

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.decoder.process import Decoder

# One decoder for jobs, REST and OpenAI's API: the limit of files at once protects the machine.
DECODER = Decoder()
atexit.register(DECODER.stop)


def read_clip(
    data: bytes, *, max_seconds: float, is_over: threading.Event | None = None
) -> NDArray[np.float32]:
    """Samples of a file, float32 [n], mono, 16 kHz. Blocks; setting `is_over` ends the wait.

    Raises BadAudio if the file cannot be decoded, TooLarge if it is longer than `max_seconds`,
    AtCapacity if too many other files are being decoded, EngineFailure if the decoder cannot run.
    """
    return DECODER.decode(data, max_seconds, is_over or threading.Event())
