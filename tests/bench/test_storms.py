"""Short forms of chaos, soak and overload, each against a real worker process."""

import asyncio
from collections.abc import Iterator

import pytest

from bench import load_chaos, load_overload, load_soak
from bench.load_speakers import scrape
from tests.support.redis_server import RedisServer, redis_or_skip
from tests.support.workers import RunningWorker, running_process, running_worker


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = redis_or_skip()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def stormy_worker(redis: RedisServer) -> Iterator[RunningWorker]:
    settings = load_chaos.SETTINGS | {"RATE_LIMIT_STORE": redis.url}
    with running_process(settings, is_faulty=True) as running:
        yield running


def has_seen_all(chaos: load_chaos.Chaos) -> bool:
    """Whether everything went wrong at least once, and a user was answered in spite of it."""
    kinds = ("sockets cut", "faults injected", "Redis stopped", "clients that stopped reading")
    return chaos.right > 0 and all(chaos.done[kind] for kind in kinds)


# Minutes on a busy machine.
@pytest.mark.timeout(600)
def test_those_who_are_left_in_chaos_are_answered_rightly_and_nothing_stays_behind(
    stormy_worker: RunningWorker, redis: RedisServer
) -> None:
    chaos, figures = asyncio.run(load_chaos.compare(stormy_worker, redis, 4.0, has_seen_all))
    assert chaos.wrong == []
    assert has_seen_all(chaos), chaos.done
    # One more: a fault of the time before, which found nothing to fail then.
    assert chaos.failed_by_fault <= chaos.done["faults injected"] + 1
    for name in ("sessions", "sockets", "blocks of KV cache in use"):
        assert figures[name] == (0, 0), name
    for name in ("tasks", "file descriptors"):
        before, after = figures[name]
        # A connection that is kept for the next call may be there at one look and not the other.
        assert after <= before + 3, name


def test_a_soak_looks_at_the_worker_while_its_users_are_answered() -> None:
    # A worker of its own: the last fault of the chaos may still wait for something to fail.
    # Not paced: on a busy machine a gap in the stream would end a turn within a sentence.
    with running_worker(**load_soak.SETTINGS) as url:
        soak = asyncio.run(load_soak.steep(url, 5.0, every_s=0.5, is_paced=False))
    assert soak.answered == soak.turns > 0
    assert len(soak.samples) >= load_soak.LEAST_LOOKS
    # At most one descriptor for each of its users and for the look itself.
    descriptors = soak.series("process_open_fds")
    assert max(descriptors) <= min(descriptors) + 2 * load_soak.USERS + 2
    assert soak.lag_p95_ms(is_late=False) > 0


def test_the_admitted_are_answered_and_the_others_told_to_come_later() -> None:
    settings = load_overload.SETTINGS | {"MAX_SESSIONS": "3"}
    with running_worker(**settings, LATENCY_GOAL_MS="60000") as url:
        assert scrape(url)["voxtral_capacity_sessions"] == 3
        row = load_overload.siege(url, 6, 6.0)
        # Places are given again when their sessions are gone.
        assert row.admitted >= 3
        assert row.refusals > 0
        assert (row.unanswered, row.others) == (0, 0)
        assert asyncio.run(load_overload.recovery_s(url, 60_000)) >= 0
