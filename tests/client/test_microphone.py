"""The microphone, with a library that plays a file instead."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.microphone import MOST_WAITING, listen, open_library
from voxtral_worker.client.sound import CHUNK_BYTES

CHUNKS = [bytes([number]) * CHUNK_BYTES for number in range(1, 6)]


class FakeLibrary:
    """`sounddevice` with a microphone that gives known chunks from a thread of its own."""

    class PortAudioError(Exception):
        pass

    def __init__(self, chunks: list[bytes], *, is_unplugged: bool = False) -> None:
        self.chunks = chunks
        self.is_unplugged = is_unplugged
        self.is_missing = False
        self.form: dict[str, Any] = {}
        self.is_closed = False

    def RawInputStream(self, *, callback: Any, finished_callback: Any, **form: Any) -> Any:  # noqa: N802
        if self.is_missing:
            raise self.PortAudioError("Error querying device -1")
        self.form, self.callback, self.finished = form, callback, finished_callback
        return self

    def start(self) -> None:
        self.thread = threading.Thread(target=self.speak)
        self.thread.start()

    def speak(self) -> None:
        for chunk in self.chunks:
            self.callback(memoryview(chunk), len(chunk) // 2, None, None)
        if self.is_unplugged:
            self.finished()

    def close(self) -> None:
        self.thread.join()
        self.is_closed = True


async def take(source: AsyncIterator[bytes], count: int) -> list[bytes]:
    async with asyncio.timeout(30):
        return [await anext(source) for _ in range(count)]


async def test_what_the_microphone_hears_comes_in_order() -> None:
    library = FakeLibrary(CHUNKS)
    source = listen(library)
    assert isinstance(source, AsyncGenerator)
    assert await take(source, len(CHUNKS)) == CHUNKS
    await source.aclose()
    assert library.is_closed
    assert library.form == {
        "samplerate": 16_000,
        "channels": 1,
        "dtype": "int16",
        "blocksize": 1600,
    }


async def test_a_microphone_that_is_taken_away_ends_the_audio_with_its_reason() -> None:
    source = listen(FakeLibrary(CHUNKS, is_unplugged=True))
    await take(source, len(CHUNKS))
    with pytest.raises(VoxtralError, match="was disconnected"):
        await take(source, 1)


async def test_speech_that_cannot_be_sent_is_not_dropped_in_silence() -> None:
    library = FakeLibrary([b"\0\0"] * (MOST_WAITING + 10))
    source = listen(library)
    await take(source, 1)
    await asyncio.to_thread(library.thread.join)
    with pytest.raises(VoxtralError, match="as fast as it is spoken"):
        await take(source, MOST_WAITING + 1)


async def test_a_machine_without_a_microphone_is_told() -> None:
    library = FakeLibrary([])
    library.is_missing = True
    with pytest.raises(VoxtralError, match="no microphone can be opened: Error querying"):
        await take(listen(library), 1)


@pytest.mark.parametrize(
    ("error", "advice"),
    [(ImportError("no module"), "pip install"), (OSError("PortAudio"), "apt-get install")],
)
def test_what_is_missing_is_told_with_how_to_install_it(error: Exception, advice: str) -> None:
    def load(_: str) -> Any:
        raise error

    with pytest.raises(VoxtralError, match=advice) as told:
        open_library(load)
    assert "\n" not in str(told.value)
