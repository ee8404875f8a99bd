"""The loudspeaker, with a library that only asks for sound."""

import threading
from typing import Any

import pytest

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.loudspeaker import Loudspeaker


class FakeLibrary:
    """`sounddevice` with a loudspeaker that plays when a test says so."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.is_missing = False
        self.is_closed = False
        self.form: dict[str, Any] = {}

    def RawOutputStream(self, *, callback: Any, **form: Any) -> Any:  # noqa: N802
        if self.is_missing:
            raise self.PortAudioError("Error querying device -1")
        self.form, self.callback = form, callback
        return self

    def start(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def plays(self, size: int) -> bytes:
        out = bytearray(size)
        self.callback(memoryview(out), size // 2, None, None)
        return bytes(out)


def test_what_is_given_is_played_in_order_and_then_silence() -> None:
    library = FakeLibrary()
    with Loudspeaker(library) as loudspeaker:
        loudspeaker.play(b"abcd")
        loudspeaker.play(b"efgh")
        assert library.plays(6) == b"abcdef"
        assert loudspeaker.is_playing
        assert library.plays(6) == b"gh" + bytes(4)
        assert not loudspeaker.is_playing
    assert library.form == {"samplerate": 24_000, "channels": 1, "dtype": "int16"}
    assert library.is_closed


def test_what_was_cut_is_not_heard() -> None:
    library = FakeLibrary()
    loudspeaker = Loudspeaker(library)
    loudspeaker.play(b"abcd")
    loudspeaker.cut()
    assert library.plays(4) == bytes(4)


def test_the_end_of_speech_can_be_waited_for() -> None:
    library = FakeLibrary()
    loudspeaker = Loudspeaker(library)
    loudspeaker.play(b"abcd")
    assert not loudspeaker.wait(0.01)
    playing = threading.Timer(0.05, library.plays, [8])
    playing.start()
    assert loudspeaker.wait(30)
    playing.join()


def test_a_machine_without_a_loudspeaker_says_so() -> None:
    library = FakeLibrary()
    library.is_missing = True
    with pytest.raises(VoxtralError, match="no loudspeaker can be opened"):
        Loudspeaker(library)
