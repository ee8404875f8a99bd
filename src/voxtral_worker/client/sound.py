"""Reads common sound files as the audio that a session takes, and sends it at a given speed."""

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
# After a delay, chunks follow faster until they are on time again. Of a longer delay only so much
# is made up: more audio at once would exceed the worker's limits.
MOST_LATE_S = 0.4
# The length of standard input is not known before its end. This is nine hours of raw samples.
MOST_INPUT_BYTES = 1 << 30
CHUNK_BYTES = BYTES_PER_SECOND * CHUNK_MS // 1000


def read_sound(path: str, *, is_raw: bool = False) -> bytes:
    """Read a wav, flac, mp3 or ogg file as 16-bit mono PCM at 16 kHz. Raises VoxtralError.

    `path` `-` is standard input. With `is_raw` the data is such PCM already, without a header.
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
        raise VoxtralError("standard input is a terminal: pipe a sound file into it")
    data = sys.stdin.buffer.read(MOST_INPUT_BYTES + 1)
    if len(data) > MOST_INPUT_BYTES:
        raise VoxtralError(f"standard input: more than {MOST_INPUT_BYTES:,} bytes")
    return data


def _whole_samples(data: bytes) -> bytes:
    if not data or len(data) % 2:
        raise VoxtralError(f"{len(data)} bytes are not samples of two bytes each")
    return data


def decode(data: bytes) -> bytes:
    """Decode a file's bytes to 16-bit mono PCM at 16 kHz. Raises VoxtralError."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError) as error:
        # soundfile takes a file of an unknown kind for raw samples, and raises TypeError.
        raise VoxtralError("not a readable sound file (wav, flac, mp3 or ogg)") from error
    mono = soxr.resample(samples.mean(axis=1), rate, RATE)
    pcm: bytes = (np.clip(mono, -1.0, 1.0) * 32767).round().astype("<i2").tobytes()
    return pcm


def as_spoken() -> float:
    """The speed of speech."""
    return 1.0


async def paced(samples: bytes, speed: Callable[[], float] = as_spoken) -> AsyncIterator[bytes]:
    """Yield PCM in chunks of 100 ms, at the speed of speech times `speed()`."""
    clock = asyncio.get_running_loop().time
    due_s = clock()
    for start in range(0, len(samples), CHUNK_BYTES):
        yield samples[start : start + CHUNK_BYTES]
        due_s = max(due_s, clock() - MOST_LATE_S) + CHUNK_MS / 1000 / speed()
        await asyncio.sleep(due_s - clock())
