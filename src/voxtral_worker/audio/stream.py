"""Turns one session's audio bytes into frames: decodes, resamples and cuts them."""

import numpy as np
import soxr
from numpy.typing import NDArray

from voxtral_worker.audio.formats import OPUS_RATE, decoder_for
from voxtral_worker.audio.frames import SAMPLE_RATE, Framer

# 16-bit samples have so many steps between 0 and full scale.
STEPS = 32_768


class AudioStream:
    """One stream of audio. Its frames do not depend on how the bytes were cut into chunks."""

    def __init__(self, encoding: str, sample_rate: int) -> None:
        """`sample_rate` in Hz; Opus is always decoded at 48 kHz."""
        rate = OPUS_RATE if encoding == "opus" else sample_rate
        self._decoder = decoder_for(encoding)
        self._framer = Framer()
        self._resampler = (
            None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32")
        )

    def push(self, chunk: bytes) -> NDArray[np.float32]:
        """Take a chunk; returns the frames that are now complete, float32 [k, 512] at 16 kHz.

        Raises BadAudio for a chunk that is not in the format; the stream continues without it.
        """
        # Do not give an empty chunk to the codec: it would take it for the end of the stream.
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
    """The resampled samples, rounded to 16-bit steps.

    The difference cannot be heard, and the history can then hold the samples as int16, in half
    the memory, without changing them.
    """
    steps = np.clip(np.rint(samples * np.float32(STEPS)), -STEPS, STEPS - 1)
    # Adding 0.0 turns -0.0 into 0.0. The two have different bytes, and caches hash the bytes.
    snapped: NDArray[np.float32] = (steps + np.float32(0.0)) / np.float32(STEPS)
    return snapped
