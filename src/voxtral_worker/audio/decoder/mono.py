"""Mixes blocks of sound to one channel and resamples them to 16 kHz."""

from typing import TypeAlias

import numpy as np
import soxr
from numpy.typing import NDArray

from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import BadAudio, TooLarge

Samples: TypeAlias = NDArray[np.float32]

LEAST_RATE, MOST_RATE = 1_000, 768_000
MOST_CHANNELS = 64
# Codecs return blocks of 20 ms or less. They are gathered until they last this long, so that the
# resampler is called less often.
GATHERED_S = 0.5
# 20 dB. An average with less than 1 % of the energy of its loudest channel means that channels
# cancel each other out, or that most of many channels are silent.
CANCELLED = 0.01


class Mono:
    """The sound so far, averaged over its channels, or one `channel` of it.

    It holds at most half a second of its input in addition to the result.
    """

    def __init__(self, max_seconds: float, channel: int | None = None) -> None:
        self.pieces: list[Samples] = []
        self.length = 0
        self._max_seconds = max_seconds
        self._channel = channel
        # Length of the input so far.
        self._seconds = 0.0
        # Blocks that are not resampled yet, all of one rate and one number of channels, and their
        # samples.
        self._gathered: list[Samples] = []
        self._samples = 0
        self._rate = 0
        # None: the input has 16 kHz already.
        self._resampler: soxr.ResampleStream | None = None
        # Energy of each channel, and of their average: to see whether channels cancel out.
        self._energies = np.zeros(MOST_CHANNELS)
        self._energy = 0.0

    def add(self, block: Samples, rate: int) -> None:
        """Take samples between -1 and 1, float32 [channels, n], of `rate` Hz.

        Raises BadAudio for a rate or a number of channels that is out of range, TooLarge once the
        sound is longer than `max_seconds`.
        """
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
        # The sum of many quotients is not exact, so allow a little more.
        if self._seconds > self._max_seconds + 1e-6:
            raise TooLarge(f"audio is longer than {self._max_seconds:g} s")
        self._gathered.append(block)
        self._samples += count
        if self._samples >= GATHERED_S * rate:
            self._mix()

    def finish(self) -> None:
        """Add the rest: no more input comes."""
        self._end_of_rate()

    def loudest_if_cancelled(self) -> int | None:
        """The loudest channel, if the average has lost its sound; else None."""
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
        # The resampling filter may overshoot full scale a little.
        self.pieces.append(np.ascontiguousarray(piece).clip(-1.0, 1.0))
