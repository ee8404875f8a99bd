"""A sound file of any common kind, as the audio that a session takes."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from voxtral_worker.client.errors import VoxtralError

RATE = 16_000
BYTES_PER_SECOND = 2 * RATE
CHUNK_MS = 100
# What was late by more is not made up for: so much at once would be over the worker's limits.
MOST_LATE_S = 0.4
# Nobody knows how long standard input is before its end: nine hours of raw samples.
MOST_INPUT_BYTES = 1 << 30
CHUNK_BYTES = BYTES_PER_SECOND * CHUNK_MS // 1000


def read_sound(path: str, *, is_raw: bool = False) -> bytes:
    """16-bit mono PCM at 16 kHz of a wav, flac, mp3 or ogg file. Raises VoxtralError.

    `-` is standard input. What is raw holds such samples alone, with nothing before them.
    """
    name = "standard input" if path == "-" else path
    try:
        data = _standard_input() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise VoxtralError(f"{name}: {error.strerror}") from error
    try:
        return _whole_samples(data) if is_raw else decode(data)
    except VoxtralError as error:
        raise VoxtralError(f"{name}: {error}") from error


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise VoxtralError("standard input is a terminal: let a program write a sound to it")
    data = sys.stdin.buffer.read(MOST_INPUT_BYTES + 1)
    if len(data) > MOST_INPUT_BYTES:
        raise VoxtralError(f"standard input: more than {MOST_INPUT_BYTES:,} bytes")
    return data


def _whole_samples(data: bytes) -> bytes:
    if not data or len(data) % 2:
        raise VoxtralError(f"{len(data)} bytes are no samples of two bytes each")
    return data


def decode(data: bytes) -> bytes:
    """What `read_sound` makes of a file's bytes. Raises VoxtralError."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError) as error:
        # A file without a known beginning is taken for raw samples: TypeError.
        raise VoxtralError("no sound that can be read (wav, flac, mp3 or ogg)") from error
    mono = soxr.resample(samples.mean(axis=1), rate, RATE)
    pcm: bytes = (np.clip(mono, -1.0, 1.0) * 32767).round().astype("<i2").tobytes()
    return pcm


def as_spoken() -> float:
    """The speed of a microphone."""
    return 1.0


async def paced(samples: bytes, speed: Callable[[], float] = as_spoken) -> AsyncIterator[bytes]:
    """The audio in chunks; `speed` says before each how many times as fast as it was spoken."""
    clock = asyncio.get_running_loop().time
    due_s = clock()
    for start in range(0, len(samples), CHUNK_BYTES):
        yield samples[start : start + CHUNK_BYTES]
        due_s = max(due_s, clock() - MOST_LATE_S) + CHUNK_MS / 1000 / speed()
        await asyncio.sleep(due_s - clock())
