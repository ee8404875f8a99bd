"""Decodes the chunks of live audio, in the encoding of the session."""

from typing import Protocol

import av
import numpy as np
from numpy.typing import NDArray

from voxtral_worker.errors import BadAudio

OPUS_RATE = 48_000


class Decoder(Protocol):
    """Decodes the chunks of one stream in order. After a bad chunk it still works."""

    def decode(self, chunk: bytes) -> NDArray[np.float32]:
        """Samples between -1 and 1, float32 [n]. Raises BadAudio."""


class Pcm16:
    """16-bit little-endian samples."""

    def decode(self, chunk: bytes) -> NDArray[np.float32]:
        """See Decoder."""
        if len(chunk) % 2:
            raise BadAudio(f"audio is 16-bit PCM, but this chunk has {len(chunk)} bytes, not even")
        return np.frombuffer(chunk, "<i2").astype(np.float32) / 32768.0


class G711:
    """One byte a sample, by a table of 256 values."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table

    def decode(self, chunk: bytes) -> NDArray[np.float32]:
        """See Decoder."""
        samples: NDArray[np.float32] = self._table[np.frombuffer(chunk, np.uint8)]
        return samples


class Opus:
    """One Opus packet a chunk, decoded to mono at 48 kHz by FFmpeg's libraries."""

    def __init__(self) -> None:
        self._codec = self._open()
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=OPUS_RATE)

    @staticmethod
    def _open() -> "av.AudioCodecContext":
        codec = av.CodecContext.create("libopus", "r")
        codec.sample_rate = OPUS_RATE
        codec.layout = "mono"
        return codec

    def decode(self, chunk: bytes) -> NDArray[np.float32]:
        """See Decoder."""
        try:
            decoded = self._codec.decode(av.Packet(chunk))
            mono = [part for frame in decoded for part in self._resampler.resample(frame)]
        except (av.FFmpegError, ValueError) as error:
            raise BadAudio("audio is not an Opus packet") from error
        if not mono:
            return np.zeros(0, np.float32)
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in mono])


def mulaw_table() -> NDArray[np.float32]:
    """ITU-T G.711, table 2b: 8 segments of 16 steps, all bits inverted; float32 [256]."""
    code = ~np.arange(256) & 0xFF
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768.0).astype(np.float32)


def alaw_table() -> NDArray[np.float32]:
    """ITU-T G.711, table 1b: even bits inverted, first segment without a leading one; [256]."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    first = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, first, (first + 0x100) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768.0).astype(np.float32)


def decoder_for(encoding: str) -> Decoder:
    """A new decoder: `pcm_s16le`, `opus`, `mulaw` or `alaw`."""
    match encoding:
        case "pcm_s16le":
            return Pcm16()
        case "mulaw":
            return G711(mulaw_table())
        case "alaw":
            return G711(alaw_table())
        case "opus":
            return Opus()
    raise ValueError(f"no encoding {encoding!r}")
