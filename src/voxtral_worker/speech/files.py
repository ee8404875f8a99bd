"""Writes speech into an audio file while it is being made."""

import io
from dataclasses import dataclass

import av
import numpy as np

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.speech.encoding import in_16_bits
from voxtral_worker.speech.voice import VOICE_RATE, Samples


@dataclass(frozen=True)
class FileFormat:
    """A kind of audio file, with FFmpeg's names for its container and codec."""

    content_type: str
    container: str
    codec: str
    bits_per_second: int | None = None


FORMATS = {
    "mp3": FileFormat("audio/mpeg", "mp3", "libmp3lame", 64_000),
    "opus": FileFormat("audio/ogg", "ogg", "libopus", 32_000),
    "flac": FileFormat("audio/flac", "flac", "flac"),
    "wav": FileFormat("audio/wav", "wav", "pcm_s16le"),
    # Samples without a container: 24 kHz, 16 bits, one channel.
    "pcm": FileFormat("audio/pcm", "s16le", "pcm_s16le"),
}


class SpeechFile:
    """One file: the joined bytes that `push` and `finish` return. Both block while they encode."""

    def __init__(self, format_: str, *, is_streamed: bool = True) -> None:
        """`is_streamed`: `push` returns bytes as they are made.

        Otherwise `finish` returns the whole file, and its header has the length of the sound.
        """
        kind = FORMATS[format_]
        self._out = io.BytesIO()
        self._is_streamed = is_streamed
        target = _Pipe(self._out) if is_streamed else self._out
        self._container = av.open(
            target, "w", format=kind.container, options={"fflags": "+bitexact"}
        )
        self._stream = self._container.add_stream(kind.codec, rate=VOICE_RATE)
        self._stream.layout = "mono"
        if kind.bits_per_second is not None:
            self._stream.bit_rate = kind.bits_per_second
        self._samples = 0

    @property
    def duration_ms(self) -> int:
        """The length of the speech so far."""
        return 1000 * self._samples // VOICE_RATE

    def push(self, samples: Samples) -> bytes:
        """Take samples, float32 [n] at VOICE_RATE; returns the bytes that are now ready."""
        frame = av.AudioFrame.from_ndarray(in_16_bits(samples)[None], format="s16", layout="mono")
        frame.rate, frame.pts = VOICE_RATE, self._samples
        self._samples += len(samples)
        self._container.mux(self._stream.encode(frame))
        return self._written()

    async def write(self, samples: Samples) -> bytes:
        """Like `push`, but does not block the event loop."""
        return await run_aside(lambda _: self.push(samples))

    async def end(self) -> bytes:
        """Like `finish`, but does not block the event loop."""
        return await run_aside(lambda _: self.finish())

    def finish(self) -> bytes:
        """The remaining bytes. Do not call `push` after this."""
        nothing = b""
        if not self._samples:
            # A file without a frame is not recognized by some players: write a little silence.
            nothing = self.push(np.zeros(VOICE_RATE // 10, np.float32))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return nothing + self._written() if self._is_streamed else self._out.getvalue()

    def _written(self) -> bytes:
        if not self._is_streamed:
            return b""
        data = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return data


class _Pipe:
    """A file that cannot seek, so that FFmpeg does not try to return to the header at the end."""

    def __init__(self, out: io.BytesIO) -> None:
        self._out = out

    def write(self, data: bytes) -> int:
        """Append bytes."""
        return self._out.write(data)
