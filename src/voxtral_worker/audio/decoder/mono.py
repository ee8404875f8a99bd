"""Makes one channel at 16 kHz of sound that comes in blocks."""

from typing import TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray

from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import BadAudio, TooLarge

Samples: TypeAlias = NDArray[np.float32]

LEAST_RATE, MOST_RATE = 1_000, 768_000
MOST_CHANNELS = 64
# Blocks are gathered until they last this long: codecs hand out 20 ms and less.
GATHERED_S = 0.5
# 20 dB: so much weaker than its loudest channel an average is only where channels cancel
# each other out, or where most of many are silent.
CANCELLED = 0.01


class Mono:
    """What came so far, averaged over the channels; or one `channel` of it.

    Memory is half a second of what comes, and the result.
    """

    def __init__(self, max_seconds: float, channel: int | None = None) -> None:
        self.pieces: list[Samples] = []
        self.length = 0
        self._max_seconds = max_seconds
        self._channel = channel
        self._seconds = 0.0
        # What is not resampled yet: all of one rate and of as many channels.
        self._gathered: list[Samples] = []
        self._samples = 0
        self._rate = 0
        self._resampler: soxr.ResampleStream | None = None
        self._energies = np.zeros(MOST_CHANNELS)
        self._energy = 0.0

    def add(self, block: Samples, rate: int) -> None:
        """Take samples between -1 and 1, float32 [channels, n]. Raises BadAudio, or TooLarge."""
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise BadAudio(f"audio has {rate} samples a second, but may have 1,000 to 768,000")
        channels, count = block.shape
        if channels > MOST_CHANNELS:
            raise BadAudio(f"audio has {channels} channels, but may have at most {MOST_CHANNELS}")
        if self._gathered and channels != len(self._gathered[0]):
            self._mix()
        if rate != self._rate:
            self._end_of_rate()
            self._rate = rate
            if rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1)
        self._seconds += count / rate
        # A sum of many quotients is not exact.
        if self._seconds > self._max_seconds + 1e-6:
            raise TooLarge(f"audio is longer than {self._max_seconds:g} s")
        self._gathered.append(block)
        self._samples += count
        if self._samples >= GATHERED_S * rate:
            self._mix()

    def finish(self) -> None:
        """Nothing more comes."""
        self._end_of_rate()

    def loudest_if_cancelled(self) -> int | None:
        """The loudest channel, if little of it is left in the average."""
        loudest = int(self._energies.argmax())
        if self._energy < CANCELLED * self._energies[loudest]:
            return loudest
        return None

    def _mix(self) -> None:
        if not self._gathered:
            return
        block = np.concatenate(self._gathered, axis=1)
        self._gathered.clear()
        self._samples = 0
        if len(block) == 1:
            mono = block[0]
        elif self._channel is not None:
            mono = block[min(self._channel, len(block) - 1)]
        else:
            mono = block.mean(axis=0)
            self._energies[: len(block)] += np.einsum("cn,cn->c", block, block)
            self._energy += float(mono @ mono)
        self._append(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def _end_of_rate(self) -> None:
        self._mix()
        if self._resampler is not None:
            self._append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            self._resampler = None

    def _append(self, piece: Samples) -> None:
        self.length += len(piece)
        # A filter may go a little beyond what it was given.
        self.pieces.append(np.ascontiguousarray(piece).clip(-1.0, 1.0))
