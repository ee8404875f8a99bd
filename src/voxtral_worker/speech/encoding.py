"""Encodes speech for a listener: at its sample rate, in its encoding, in pieces of about 400 ms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from voxtral_worker.speech.voice import VOICE_RATE, Samples

Samples16: TypeAlias = NDArray[np.int16]

PIECE_MS = 400
# A piece of Opus is one packet; this is the longest that Opus allows (RFC 6716, section 2.1.4).
OPUS_PIECE_MS = 120
OPUS_BITS_PER_SECOND = 32_000
SILENCE_MS = 20
STEPS = 32_767
_G711 = {"mulaw": "pcm_mulaw", "alaw": "pcm_alaw"}


@dataclass(frozen=True)
class Piece:
    """One piece of encoded speech."""

    data: bytes
    duration_ms: float


class SpeechEncoder:
    """Encodes one turn's speech. A piece never holds sound of two sentences."""

    def __init__(self, encoding: str, sample_rate: int) -> None:
        """`sample_rate` in Hz; ignored for Opus, which is encoded at VOICE_RATE."""
        self._rate = VOICE_RATE if encoding == "opus" else sample_rate
        piece_ms = OPUS_PIECE_MS if encoding == "opus" else PIECE_MS
        self._piece_samples = self._rate * piece_ms // 1000
        self._fills_up = encoding == "opus"
        self._encode = _encoder(encoding, self._rate)
        self._resampler: soxr.ResampleStream | None = None
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: Samples) -> list[Piece]:
        """Take samples, float32 [n] at VOICE_RATE; returns the pieces that are now complete."""
        return self._whole(self._resampled(samples))

    def end_sentence(self) -> list[Piece]:
        """The last pieces of a sentence; the very last may be shorter than the others."""
        pieces = self._whole(self._resampled(np.zeros(0, np.float32), is_last=True))
        self._resampler = None
        rest, self._rest = self._rest, np.zeros(0, np.float32)
        if not len(rest):
            return pieces
        return [*pieces, self._piece(self._filled_up(rest) if self._fills_up else rest)]

    def silence(self) -> Piece:
        """A short piece of silence."""
        nothing = np.zeros(self._rate * SILENCE_MS // 1000, np.float32)
        return self._piece(self._filled_up(nothing) if self._fills_up else nothing)

    def _resampled(self, samples: Samples, *, is_last: bool = False) -> Samples:
        if self._rate == VOICE_RATE:
            return samples
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(VOICE_RATE, self._rate, 1, "float32")
        resampled: Samples = self._resampler.resample_chunk(samples, last=is_last)
        return resampled

    def _whole(self, samples: Samples) -> list[Piece]:
        joined = np.concatenate([self._rest, samples])
        size = self._piece_samples
        end = len(joined) - len(joined) % size
        self._rest = joined[end:]
        return [self._piece(joined[start : start + size]) for start in range(0, end, size)]

    def _filled_up(self, samples: Samples) -> Samples:
        return np.pad(samples, (0, self._piece_samples - len(samples)))

    def _piece(self, samples: Samples) -> Piece:
        return Piece(self._encode(in_16_bits(samples)), 1000 * len(samples) / self._rate)


def in_16_bits(samples: Samples) -> Samples16:
    """Convert samples between -1 and 1 to 16 bits. Louder samples are clipped."""
    return (np.clip(samples, -1.0, 1.0) * STEPS).astype("<i2")


def _encoder(encoding: str, rate: int) -> Callable[[Samples16], bytes]:
    if encoding == "pcm_s16le":
        return lambda samples: samples.tobytes()
    codec = av.CodecContext.create(_G711.get(encoding, "libopus"), "w")
    codec.sample_rate, codec.layout, codec.format = rate, "mono", "s16"
    if encoding == "opus":
        codec.bit_rate = OPUS_BITS_PER_SECOND
        codec.options = {"frame_duration": str(OPUS_PIECE_MS), "application": "voip"}

    def encode(samples: Samples16) -> bytes:
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = rate
        return b"".join(bytes(packet) for packet in codec.encode(frame))

    return encode
