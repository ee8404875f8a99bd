"""A sound file of any common kind, as the audio that a session takes."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from voxtral_worker.client.errors import VoxtralError

RATE = 16_000
BYTES_PER_SECOND = 2 * RATE
CHUNK_MS = 100
CHUNK_BYTES = BYTES_PER_SECOND * CHUNK_MS // 1000


def read_sound(path: str) -> bytes:
    """16-bit mono PCM at 16 kHz of a wav, flac, mp3 or ogg file. Raises VoxtralError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise VoxtralError(f"{path}: {error.strerror}") from error
    try:
        return decode(data)
    except VoxtralError as error:
        raise VoxtralError(f"{path}: {error}") from error


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


async def paced(samples: bytes, speed: float = 1.0) -> AsyncIterator[bytes]:
    """The audio in chunks, so many times as fast as it was spoken."""
    clock = asyncio.get_running_loop().time
    started_s = clock()
    for number, start in enumerate(range(0, len(samples), CHUNK_BYTES), 1):
        yield samples[start : start + CHUNK_BYTES]
        await asyncio.sleep(started_s + number * CHUNK_MS / 1000 / speed - clock())
