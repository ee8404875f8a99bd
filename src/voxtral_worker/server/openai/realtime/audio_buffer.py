"""The audio buffer of a client that ends its turns itself."""

import math

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.errors import TooLarge
from voxtral_worker.server.openai.errors import BadOption

SHORTEST_MS = 100
SAMPLE_BYTES = 4


class AudioBuffer:
    """Decoded audio of the open turn, at most `most_s` seconds of it."""

    def __init__(self, encoding: str, sample_rate: int, most_s: float) -> None:
        self._format = (encoding, sample_rate)
        self._most_samples = int(most_s * SAMPLE_RATE)
        self.clear()

    @property
    def duration_ms(self) -> float:
        """The length of the audio in the buffer."""
        return 1000 * self._samples / SAMPLE_RATE

    def clear(self) -> None:
        """Delete all audio."""
        self._stream = AudioStream(*self._format)
        self._frames: list[NDArray[np.float32]] = []
        self._samples = 0.0
        # The size of the decoded frames.
        self.bytes = 0

    def bytes_of(self, chunk: bytes) -> int:
        """An upper bound of the size of a chunk once it is decoded."""
        return SAMPLE_BYTES * (math.ceil(self._samples_of(chunk)) + FRAME_SAMPLES)

    def push(self, chunk: bytes) -> None:
        """Decode and add a chunk.

        Raises BadAudio, or TooLarge if the buffer would be too full; it then stays as it was.
        """
        samples = self._samples_of(chunk)
        if self._samples + samples > self._most_samples:
            most_s = self._most_samples / SAMPLE_RATE
            raise TooLarge(f"the audio buffer is full: it holds {most_s:g} s; commit or clear it")
        self._frames.append(self._stream.push(chunk))
        self._samples += samples
        self.bytes += self._frames[-1].nbytes

    def take(self) -> NDArray[np.float32]:
        """Return all audio, float32 [n], 16 kHz, and empty the buffer.

        Raises BadOption if the audio is too short.
        """
        if self.duration_ms < SHORTEST_MS:
            raise too_short(self.duration_ms)
        frames = [*self._frames, self._stream.finish()]
        self.clear()
        samples: NDArray[np.float32] = np.concatenate(frames).reshape(-1)
        return samples

    def _samples_of(self, chunk: bytes) -> float:
        encoding, rate = self._format
        return len(chunk) / (2 if encoding == "pcm_s16le" else 1) * SAMPLE_RATE / rate


def too_short(duration_ms: float) -> BadOption:
    """The error for a commit of too little audio."""
    return BadOption(
        None,
        f"the audio buffer has {duration_ms:.0f} ms of audio; at least {SHORTEST_MS} ms are needed",
        "input_audio_buffer_commit_empty",
    )


def nothing_heard() -> BadOption:
    """The error for a commit when the worker detects turns and has heard no speech."""
    return BadOption(
        None,
        "there is nothing to commit: no speech was heard since the last turn ended",
        "input_audio_buffer_commit_empty",
    )
