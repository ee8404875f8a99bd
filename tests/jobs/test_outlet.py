"""How pieces leave."""

import asyncio

import pytest

from voxtral_worker.errors import EngineFailure
from voxtral_worker.jobs.outlet import Outlet


async def test_deltas_that_come_close_together_leave_as_one() -> None:
    outlet = Outlet(gather_s=0.05)
    for word in ("a", "b", "c"):
        outlet.add_delta(0, word)
    assert await outlet.take() == {"index": 0, "delta": "abc"}


async def test_a_delta_waits_no_longer_than_the_gathering_time() -> None:
    outlet = Outlet(gather_s=0.05)
    outlet.add_delta(0, "a")
    assert await asyncio.wait_for(outlet.take(), 1.0) == {"index": 0, "delta": "a"}
    outlet.add_delta(0, "b")
    assert await asyncio.wait_for(outlet.take(), 1.0) == {"index": 0, "delta": "b"}


async def test_a_whole_piece_takes_what_was_gathered_along_at_once() -> None:
    outlet = Outlet(gather_s=3600)
    outlet.add_delta(0, "a")
    outlet.add_delta(1, "b")
    outlet.add({"index": 0, "text": "a"})
    outlet.add_delta(1, "c")
    outlet.end()
    pieces = [await outlet.take() for _ in range(5)]
    assert pieces == [
        {"index": 0, "delta": "a"},
        {"index": 1, "delta": "b"},
        {"index": 0, "text": "a"},
        {"index": 1, "delta": "c"},
        None,
    ]


async def test_who_waits_is_woken_by_a_piece_and_by_the_end() -> None:
    outlet = Outlet()
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    outlet.add({"index": 0})
    assert await taking == {"index": 0}
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    outlet.end()
    assert await taking is None


async def test_an_error_goes_before_what_has_not_left_yet() -> None:
    outlet = Outlet()
    outlet.add({"index": 0})
    outlet.end(EngineFailure("broken"))
    outlet.end()
    with pytest.raises(EngineFailure, match="broken"):
        await outlet.take()
