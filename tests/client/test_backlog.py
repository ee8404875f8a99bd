"""A file goes no faster than its turns are answered."""

import asyncio
from typing import Any

from voxtral_worker.client.backlog import FAST, MOST_UNANSWERED, Backlog
from voxtral_worker.client.events import read_event
from voxtral_worker.client.sound import CHUNK_BYTES, CHUNK_MS, paced


def take(backlog: Backlog, kind: str, turn_id: str | None, **fields: Any) -> None:
    backlog.take(read_event({"type": kind, "turn_id": turn_id, **fields}))


def full() -> Backlog:
    backlog = Backlog()
    for number in range(MOST_UNANSWERED):
        assert backlog.speed() == FAST
        take(backlog, "status", str(number), status="speech_ended")
    return backlog


def test_audio_is_fast_until_too_many_turns_wait_and_then_as_it_was_spoken() -> None:
    backlog = full()
    assert backlog.speed() == 1.0
    # Received again after a lost connection, it is the same turn.
    take(backlog, "status", "0", status="speech_ended")
    take(backlog, "text_response", "0", text="One.")
    assert backlog.speed() == FAST


def test_a_turn_is_answered_also_by_an_error_and_by_no_speech() -> None:
    for kind, fields in (("error", {"error": "no"}), ("status", {"status": "no_speech"})):
        backlog = full()
        take(backlog, kind, None, **fields)
        take(backlog, "status", "3", status="processing")
        assert backlog.speed() == 1.0
        take(backlog, kind, "3", **fields)
        assert backlog.speed() == FAST


def test_the_speed_may_change_while_audio_is_sent() -> None:
    """On a clock that only sleeping moves."""

    async def sent_at_s() -> list[float]:
        loop = asyncio.get_running_loop()
        speeds = iter([20.0, 20.0, 1.0, 1.0, 20.0])
        return [loop.time() async for _ in paced(bytes(5 * CHUNK_BYTES), lambda: next(speeds))]

    began_s, *times = asyncio.run(sent_at_s())
    chunk_s = CHUNK_MS / 1000
    for time_s, least in zip(times, (1 / 20, 2 / 20, 1 + 2 / 20, 2 + 2 / 20), strict=True):
        assert time_s - began_s >= least * chunk_s - 0.005


async def test_what_was_late_is_not_sent_all_at_once() -> None:
    loop = asyncio.get_running_loop()
    times = []
    async for _ in paced(bytes(20 * CHUNK_BYTES), lambda: 1.0):
        times.append(loop.time())
        if len(times) == 1:
            await asyncio.sleep(1.5)
    # Without a bound the 14 chunks that were late would come together.
    assert times[-1] - times[1] >= 1.3
