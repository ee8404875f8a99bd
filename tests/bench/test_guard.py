"""Short forms of the attacks that the worker has to bear, each while people talk.

They say what must hold at any speed: all are answered with the right words, `/ping` answers,
the process lives, and the attack learns no more than it may. `make bench-load`, part `guard`,
measures times and memory.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from bench import load_blocking, load_guard
from bench.load_guard import Guard, Row, Turn
from tests.support.attacks_by_use import ATTACKS
from tests.support.stranger import Stranger
from tests.support.workers import RunningWorker

SECONDS = 0.5
# By their names; an attack that the worker begins to bear is one line more.
BORNE = (
    "chat calls of 255 messages, 499,000 characters",
    "chat calls of 2,047 messages",
    "compressed bodies",
    "300,000 parts in a message",
    "24 MiB of JSON lists",
    "JSON nested 100,000 deep",
    "a config of 1 MiB of JSON lists",
    "forms of 10,000 files",
    "WAV files that claim 4 GiB",
    "WAV files of rare sample rates",
    "1,000 connections that send nothing",
    "200 requests whose head does not end",
    "200 requests whose body does not end",
    "20 streams that are not read",
    "a storm of pings",
    "a storm of nonsense",
    "a storm of resumes",
    "a storm of config updates",
    "text frames of 3 MiB",
    "text frames of 4 MB, compressed 1,000 times",
    "a storm of the protocol's own pings",
    "a message of endless empty fragments",
    "audio as fast as it is taken",
    "packets that are not Opus",
    "sessions without end",
    "wrong credentials, 18 in a call",
    "metrics and health as fast as they come",
)


def tell_failure(begun: "Future[Row]", talk: "Future[Any]") -> None:
    if not begun.done():
        begun.set_exception(talk.exception() or RuntimeError())


class Siege:
    """People who talk on a loop of their own, while attacks come from a thread of tests."""

    def __init__(self, worker: RunningWorker, guard: Guard) -> None:
        self.worker = worker
        self.guard = guard
        self.loop = asyncio.new_event_loop()
        self._is_over = asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        begun: Future[Row] = Future()
        self._talk = asyncio.run_coroutine_threadsafe(self._run(begun), self.loop)
        self._talk.add_done_callback(partial(tell_failure, begun))
        self.quiet = begun.result(120)

    async def _run(self, begun: "Future[Row]") -> None:
        async with self.guard.watching():
            begun.set_result(await self.guard.be_quiet(1.0))
            await self._is_over.wait()

    def suffer(self, name: str) -> Row:
        (attack,) = [one for one in ATTACKS if one.name == name]
        suffering = self.guard.suffer(attack, SECONDS)
        return asyncio.run_coroutine_threadsafe(suffering, self.loop).result(150)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self._is_over.set)
        self._talk.result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    with load_guard.attackers() as pool, load_guard.besieged_worker() as (worker, api):
        siege = Siege(worker, Guard(worker, api, pool))
        yield siege
        siege.end()


@pytest.mark.parametrize("name", BORNE)
def test_an_attack_is_refused_and_everybody_else_is_answered(siege: Siege, name: str) -> None:
    (attack,) = [one for one in ATTACKS if one.name == name]
    row = siege.suffer(name)
    assert siege.worker.process.poll() is None
    assert row.faults(siege.guard.texts) == []
    assert row.spoken and row.written
    assert attack.answers & row.answers.keys(), row.answers
    assert not {"500", "PROCESSING_ERROR", "GPU_OOM"} & row.answers.keys(), row.answers


def test_every_attack_has_a_name_of_its_own_and_says_what_it_may_be_answered() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert set(BORNE) <= set(names)
    assert all(attack.answers for attack in ATTACKS)
    assert all((attack.carry is None) == bool(attack.jobs) for attack in ATTACKS)


def test_a_row_tells_what_did_not_hold() -> None:
    def row(*turns: Turn, pings_failed: int = 0, growth_mib: float = 0) -> Row:
        return Row("a", Counter(), list(turns), [], [], 0.0, pings_failed, growth_mib)

    good, slow = Turn("a", 0.0, 0.5, "A"), Turn("a", 0.0, 9.0, "A")
    texts = {"a": "A"}
    assert row(good).faults(texts) == row(good).slow(row(good)) == []
    assert row().faults(texts) == ["0 turns unanswered"]
    assert row(good, Turn("a", 1.0)).faults(texts)[0] == "1 turns unanswered"
    assert row(Turn("a", 0.0, 0.5, "B")).faults(texts) == ["1 turns with other words"]
    assert row(good, pings_failed=2).faults(texts) == ["2 pings failed"]
    assert row(slow).slow(row(good)) == ["spoken turns beyond 1.5 s"]
    assert row(good, growth_mib=501).slow(row(good)) == ["memory beyond 500 MiB"]


def test_a_stranger_comes_from_another_address_each_time() -> None:
    stranger = Stranger("http://127.0.0.1:1", "key", 1.0)
    assert len({stranger.address() for _ in range(20)}) > 15
    assert stranger.address().startswith("127.")


async def test_a_loop_that_stands_still_is_noticed_once() -> None:
    lag = load_blocking.Lag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(0.01)
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    await asyncio.sleep(0.01)
    assert lag.take() >= 0.04
    assert lag.take() == 0.0
    watching.cancel()


@pytest.fixture(scope="module")
def blocking() -> Iterator[load_blocking.Blocking]:
    with load_guard.attackers() as pool:
        watched = load_blocking.Blocking(pool)
        yield watched
        watched.close()


@pytest.mark.parametrize(
    "name", ["POST /session/create", "config_update", "realtime: session.update", "job text"]
)
def test_the_largest_input_of_a_way_in_is_brought_and_answered(
    blocking: load_blocking.Blocking, name: str
) -> None:
    index = [entry.name for entry in load_blocking.ENTRIES].index(name)
    assert blocking.blocked_s(index, tries=1) > 0
