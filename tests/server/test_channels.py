"""Each channel of a session has one connection, and the older one makes room."""

from typing import Any

from voxtral_worker.server.channels import AUDIO, Channels


class FakeConnection:
    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


def connection() -> Any:
    return FakeConnection()


def test_a_newer_connection_takes_the_place_of_the_one_that_is_open_or_waits() -> None:
    channels = Channels()
    first, second, third = connection(), connection(), connection()
    channels.attach(AUDIO, first)
    channels.attach(AUDIO, second, waits=True)
    assert first.closed == [(4409, "replaced by a newer connection")]
    assert not channels.is_attached(AUDIO, first)
    channels.attach(AUDIO, third)
    assert second.closed == first.closed
    assert not channels.open(AUDIO, second)
    assert channels.find(AUDIO) is third
    assert len(channels) == 1


def test_one_that_waits_is_attached_and_not_open() -> None:
    channels = Channels()
    waiting = connection()
    channels.attach(AUDIO, waiting, waits=True)
    assert channels.is_attached(AUDIO, waiting)
    assert channels.find(AUDIO) is None
    assert channels.find(AUDIO, may_wait=True) is waiting
    assert waiting is not None
    assert channels.open(AUDIO, waiting)
    assert channels.find(AUDIO) is waiting


def test_who_leaves_takes_nobody_else_along_and_the_end_closes_all() -> None:
    channels = Channels()
    gone, audio, control = connection(), connection(), connection()
    channels.attach(AUDIO, gone)
    channels.attach(AUDIO, audio)
    channels.attach("control", control, waits=True)
    channels.detach(AUDIO, gone)
    assert dict(channels) == {AUDIO: audio, "control": control}
    channels.close(1000, "over")
    assert audio.closed == control.closed == [(1000, "over")]
    assert len(channels) == 0
