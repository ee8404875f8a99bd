"""What is written to the store, when, and in which order; the store answers what a test wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from voxtral_worker.server.shared import keeper
from voxtral_worker.server.shared.keeper import MAX_ENDED, SessionKeeper
from voxtral_worker.server.shared.store import Saved
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.registry import Registry
from voxtral_worker.sessions.session import Session

WAIT_S = 15.0


class FakeStore:
    """Remembers what it was asked, and answers what a test wants."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.says = Saved.OURS
        self.hangs = False
        self.ttls_s: list[float] = []

    async def save(self, session_id: str, record: str, ttl_s: float) -> Saved:
        if self.hangs:
            await asyncio.Event().wait()
        self.calls.append(("save", session_id))
        self.ttls_s.append(ttl_s)
        return self.says

    async def end(self, session_id: str, *, whoever_owns_it: bool = False) -> bool | None:
        self.calls.append(("end of anybody's" if whoever_owns_it else "end of ours", session_id))
        return None if self.says is Saved.LATER else True


class Kept:
    """A keeper over a registry of two sessions."""

    def __init__(self, idle_timeout_s: float = 300.0) -> None:
        self.store = FakeStore()
        self.registry: Registry[Any] = Registry(4, idle_timeout_s)
        for session_id in ("a", "b"):
            self.registry.add(Session(session_id, SessionConfig(), time.monotonic()))
        self.lost: list[tuple[str, Saved]] = []
        self.keeper = SessionKeeper(self.store, idle_timeout_s, self.registry, self.let_go)  # type: ignore[arg-type]

    async def let_go(self, session_id: str, saved: Saved) -> None:
        self.registry.remove(session_id)
        self.lost.append((session_id, saved))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.keeper.run())
        yield
        task.cancel()
        await asyncio.wait([task])

    async def until_calls(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.store.calls) < count:
                await asyncio.sleep(0)


@contextmanager
def short(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(keeper, name, 0.01)
        yield


async def test_changes_are_written_once_in_the_order_in_which_they_came() -> None:
    kept = Kept()
    for session_id in ("b", "a", "b", "gone"):
        kept.keeper.note_change(session_id)
    async with kept.running():
        await kept.until_calls(2)
        kept.keeper.note_change("b")
        await kept.until_calls(3)
    assert kept.store.calls == [("save", "b"), ("save", "a"), ("save", "b")]


async def test_an_end_goes_before_changes_and_takes_its_own_with_it() -> None:
    kept = Kept()
    kept.keeper.note_change("a")
    kept.keeper.note_change("b")
    kept.keeper.note_end("a", whoever_owns_it=True)
    kept.keeper.note_end("c", whoever_owns_it=False)
    async with kept.running():
        await kept.until_calls(3)
    assert kept.store.calls == [("end of anybody's", "a"), ("end of ours", "c"), ("save", "b")]


async def test_what_redis_did_not_take_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    kept.store.says = Saved.LATER
    kept.keeper.note_change("a")
    with short(monkeypatch, "PAUSE_S"):
        async with kept.running():
            await kept.until_calls(2)
            kept.keeper.note_end("b", whoever_owns_it=True)
            await kept.until_calls(5)
            kept.store.says = Saved.OURS
            kept.store.calls.clear()
            await kept.until_calls(2)
    assert kept.store.calls == [("end of anybody's", "b"), ("save", "a")]


@pytest.mark.parametrize("saved", [Saved.TAKEN_OVER, Saved.ENDED])
async def test_a_session_that_is_somebody_elses_is_let_go(saved: Saved) -> None:
    kept = Kept()
    kept.store.says = saved
    assert await kept.keeper.save("a")
    assert kept.lost == [("a", saved)]
    assert await kept.keeper.save("a")
    assert kept.store.calls == [("save", "a")]


async def test_untouched_sessions_are_written_at_every_refresh() -> None:
    kept = Kept(idle_timeout_s=0.04)
    async with kept.running():
        await kept.until_calls(4)
    assert kept.store.calls[:4] == [("save", "a"), ("save", "b")] * 2


async def test_a_record_lives_as_long_as_the_session_would_without_activity() -> None:
    kept = Kept(idle_timeout_s=300.0)
    kept.registry.get("b").last_activity_s -= 200.0
    await kept.keeper.save("a")
    await kept.keeper.save("b")
    fresh_s, quiet_s = kept.store.ttls_s
    assert 300.0 < fresh_s <= kept.keeper.ttl_s == 305.0
    assert 195.0 < fresh_s - quiet_s < 205.0


async def test_a_flush_writes_everything_and_is_not_held_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Kept()
    kept.keeper.note_end("c", whoever_owns_it=True)
    await kept.keeper.flush()
    assert kept.store.calls == [("end of anybody's", "c"), ("save", "a"), ("save", "b")]
    kept.store.hangs = True
    with short(monkeypatch, "FLUSH_S"):
        async with asyncio.timeout(WAIT_S):
            await kept.keeper.flush()
    assert len(kept.store.calls) == 3


async def test_ends_that_wait_for_redis_are_bounded() -> None:
    kept = Kept()
    for number in range(MAX_ENDED + 10):
        kept.keeper.note_end(str(number), whoever_owns_it=True)
    await kept.keeper.flush()
    assert len(kept.store.calls) == MAX_ENDED + 2


async def test_a_session_that_cannot_be_written_leaves_no_record_and_holds_up_nobody() -> None:
    kept = Kept()
    kept.registry.get("a").record = lambda: 1 / 0
    for _ in range(2):
        kept.keeper.note_change("a")
        kept.keeper.note_change("b")
        await kept.keeper.flush()
    assert kept.store.calls[:2] == [("end of ours", "a"), ("save", "b")]
    assert kept.store.calls.count(("end of ours", "a")) == 1
    kept.keeper.note_end("a", whoever_owns_it=True)
    await kept.keeper.flush()
    assert ("end of anybody's", "a") in kept.store.calls


async def test_an_end_that_redis_did_not_hear_is_told_again() -> None:
    kept = Kept()
    kept.store.says = Saved.LATER
    assert await kept.keeper.end("a") is None
    kept.store.says = Saved.OURS
    kept.store.calls.clear()
    async with kept.running():
        await kept.until_calls(1)
    assert kept.store.calls[0] == ("end of anybody's", "a")
    assert await kept.keeper.end("b") is True
