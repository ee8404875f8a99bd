"""One session's audio from bytes to frames: decode, resample, cut."""

import numpy as np
import soxr
from numpy.typing import NDArray

from voxtral_worker.audio.formats import OPUS_RATE, decoder_for
from voxtral_worker.audio.frames import SAMPLE_RATE, Framer
from voxtral_worker.errors import BadAudio


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
        if not chunk:
            raise BadAudio("audio chunk is empty")
        samples = self._decoder.decode(chunk)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        return self._framer.push(samples)

    def finish(self) -> NDArray[np.float32]:
        """The last frames, filled up with silence; nothing may be pushed after them."""
        rest = np.zeros(0, np.float32)
        if self._resampler is not None:
            rest = self._resampler.resample_chunk(rest, last=True)
        return np.concatenate([self._framer.push(rest), self._framer.finish()])
