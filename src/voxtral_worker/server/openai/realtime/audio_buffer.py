"""Audio that waits for its client to say that the turn is over."""

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.errors import TooLarge
from voxtral_worker.server.openai.errors import BadOption

SHORTEST_MS = 100


class AudioBuffer:
    """Holds at most `most_s` seconds."""

    def __init__(self, encoding: str, sample_rate: int, most_s: float) -> None:
        self._format = (encoding, sample_rate)
        self._most_samples = int(most_s * SAMPLE_RATE)
        self.clear()

    @property
    def duration_ms(self) -> float:
        """How much there is."""
        return 1000 * self._samples / SAMPLE_RATE

    def clear(self) -> None:
        """Nothing was said."""
        self._stream = AudioStream(*self._format)
        self._frames: list[NDArray[np.float32]] = []
        self._samples = 0.0

    def push(self, chunk: bytes) -> None:
        """More of it. Raises BadAudio, or TooLarge when it is full; it then stays as it was."""
        encoding, rate = self._format
        samples = len(chunk) / (2 if encoding == "pcm_s16le" else 1) * SAMPLE_RATE / rate
        if self._samples + samples > self._most_samples:
            most_s = self._most_samples / SAMPLE_RATE
            raise TooLarge(f"the audio buffer is full: it holds {most_s:g} s; commit or clear it")
        self._frames.append(self._stream.push(chunk))
        self._samples += samples

    def take(self) -> NDArray[np.float32]:
        """All of it, float32 [n], 16 kHz; the buffer is then empty. Raises BadOption."""
        if self.duration_ms < SHORTEST_MS:
            raise too_short(self.duration_ms)
        frames = [*self._frames, self._stream.finish()]
        self.clear()
        samples: NDArray[np.float32] = np.concatenate(frames).reshape(-1)
        return samples


def too_short(duration_ms: float) -> BadOption:
    """The error for a commit of nothing."""
    return BadOption(
        None,
        f"the audio buffer has {duration_ms:.0f} ms of audio, or no speech; "
        f"at least {SHORTEST_MS} ms are needed",
        "input_audio_buffer_commit_empty",
    )
