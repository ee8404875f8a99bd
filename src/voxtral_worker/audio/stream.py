"""One session's audio from bytes to frames: decode, resample, cut."""

import numpy as np
import soxr
from numpy.typing import NDArray

from voxtral_worker.audio.formats import OPUS_RATE, decoder_for
from voxtral_worker.audio.frames import SAMPLE_RATE, Framer

# Between 0 and full loudness, in 16 bits.
STEPS = 32_768


class AudioStream:
    """Frames do not depend on how the bytes were cut into chunks."""

    def __init__(self, encoding: str, sample_rate: int) -> None:
        """`sample_rate` in Hz; Opus is always decoded at 48 kHz."""
        rate = OPUS_RATE if encoding == "opus" else sample_rate
        self._decoder = decoder_for(encoding)
        self._framer = Framer()
        self._resampler = (
            None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32")
        )

    def push(self, chunk: bytes) -> NDArray[np.float32]:
        """Frames that are whole now, float32 [k, 512] at 16 kHz.

        Raises BadAudio for a chunk that is not in the format; the stream goes on without it.
        """
        # An empty chunk says nothing; to a codec it would mean the end of the stream.
        samples = self._decoder.decode(chunk) if chunk else np.zeros(0, np.float32)
        if self._resampler is not None:
            samples = _in_16_bits(self._resampler.resample_chunk(samples))
        return self._framer.push(samples)

    def finish(self) -> NDArray[np.float32]:
        """The last frames, filled up with silence; nothing may be pushed after them."""
        rest = np.zeros(0, np.float32)
        if self._resampler is not None:
            rest = _in_16_bits(self._resampler.resample_chunk(rest, last=True))
        return np.concatenate([self._framer.push(rest), self._framer.finish()])


def _in_16_bits(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples on the steps of 16 bits, as all came that were resampled.

    What is between two steps is no sound, and a history holds such samples in half of the memory.
    """
    steps = np.clip(np.rint(samples * np.float32(STEPS)), -STEPS, STEPS - 1)
    # No -0.0, which is another number to whoever hashes bytes.
    snapped: NDArray[np.float32] = (steps + np.float32(0.0)) / np.float32(STEPS)
    return snapped
