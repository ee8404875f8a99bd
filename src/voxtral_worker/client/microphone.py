"""Reads the microphone in chunks of audio."""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.sound import CHUNK_MS, RATE

# Chunks that may wait while a lost connection is opened again: one minute of speech.
MOST_WAITING = 60_000 // CHUNK_MS
NO_LIBRARY = "sound devices need the library sounddevice: pip install sounddevice"
NO_PORTAUDIO = "sound devices need PortAudio: apt-get install libportaudio2"
TOO_SLOW = "the audio cannot be sent as fast as it is spoken"
GONE = "the microphone was disconnected"


def open_library(load: Callable[[str], Any] = importlib.import_module) -> Any:
    """The module `sounddevice`. Raises VoxtralError that says what to install."""
    try:
        return load("sounddevice")
    except ImportError as error:
        raise VoxtralError(NO_LIBRARY) from error
    except OSError as error:
        # `sounddevice` looks for PortAudio when it is imported, and raises OSError without it.
        raise VoxtralError(NO_PORTAUDIO) from error


async def listen(library: Any) -> AsyncIterator[bytes]:
    """Yield 16-bit mono PCM at 16 kHz from the default microphone, without end.

    Raises VoxtralError if it cannot be opened, is disconnected, or is not read fast enough.
    """
    loop = asyncio.get_running_loop()
    # One place more than chunks may wait: for the error that ends the stream.
    waiting: asyncio.Queue[bytes | VoxtralError] = asyncio.Queue(MOST_WAITING + 1)

    def put(item: bytes | VoxtralError) -> None:
        if waiting.qsize() < MOST_WAITING:
            waiting.put_nowait(item)
        elif not waiting.full():
            waiting.put_nowait(VoxtralError(TOO_SLOW))

    def hear(item: bytes | VoxtralError) -> None:
        # PortAudio's thread calls this. RuntimeError: the loop is already closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(put, item)

    with _open(library, hear):
        while not isinstance(item := await waiting.get(), VoxtralError):
            yield item
    raise item


@contextlib.contextmanager
def _open(library: Any, hear: Callable[[bytes | VoxtralError], None]) -> Iterator[None]:
    try:
        stream = library.RawInputStream(
            samplerate=RATE,
            channels=1,
            dtype="int16",
            blocksize=RATE * CHUNK_MS // 1000,
            callback=lambda data, *_: hear(bytes(data)),
            finished_callback=lambda: hear(VoxtralError(GONE)),
        )
        stream.start()
    except library.PortAudioError as error:
        raise VoxtralError(f"no microphone can be opened: {error}") from error
    try:
        yield
    finally:
        stream.close()
