"""The limits of an address to their edges, at one worker and at two that share a Redis."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from itertools import cycle
from typing import Any

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from multidict import CIMultiDict

from bench.redis_server import RedisServer
from tests.server.running import RunningServer
from tests.server.talking import create, talk
from voxtral_worker import metrics
from voxtral_worker.server import redis_link
from voxtral_worker.server.limits import AddressLimit, Counts

Start = Callable[..., RunningServer]
ADDRESS = "203.0.113.7"
WAIT_S = 60.0


async def creation(http: ClientSession, server: RunningServer) -> tuple[int, dict[str, str]]:
    async with http.post(f"{server.url}/session/create") as answer:
        return answer.status, dict(answer.headers)


def limits_of(headers: dict[str, str]) -> tuple[int, int, float]:
    """Limit and remaining, and the seconds until the reset."""
    told = [int(headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset")]
    return told[0], told[1], told[2] - time.time()


@asynccontextmanager
async def counting(url: str | None) -> AsyncIterator[Counts]:
    counts = Counts(url)
    yield counts
    await counts.close()


def failures() -> float:
    return metrics.redis_failures.labels("limits")._value.get()


@pytest.mark.parametrize("is_shared", [False, True])
async def test_the_last_session_within_the_limit_is_created_and_the_next_refused(
    start_server: Start, request: pytest.FixtureRequest, is_shared: bool
) -> None:
    store = request.getfixturevalue("redis").url if is_shared else None
    workers = [
        start_server(rate_limit_enabled=True, rate_limit_store=store)
        for _ in range(2 if is_shared else 1)
    ]
    began_s = time.time()
    async with ClientSession() as http:
        for taken, worker in zip(range(1, 6), cycle(workers), strict=False):
            status, headers = await creation(http, worker)
            limit, remaining, reset_s = limits_of(headers)
            assert (status, limit, remaining) == (200, 5, 5 - taken)
            assert 60 - (time.time() - began_s) <= reset_s <= 61
            assert "Retry-After" not in headers
        for worker in workers * 2:
            status, headers = await creation(http, worker)
            limit, remaining, reset_s = limits_of(headers)
            assert (status, limit, remaining) == (429, 5, 0)
            # Until the first of the five is a minute old, in whole seconds.
            assert reset_s - 1 <= int(headers["Retry-After"]) <= reset_s + 1
            assert 1 <= int(headers["Retry-After"]) <= 60


async def test_an_address_has_one_limit_however_it_is_written_and_passed_on(
    start_server: Start,
) -> None:
    server = start_server(
        rate_limit_enabled=True,
        rate_limit_sessions_per_minute=1,
        trusted_proxies=(ip_network("127.0.0.0/8"),),
    )
    by_proxy, by_cloudflare = "X-Forwarded-For", "CF-Connecting-IP"
    calls: list[list[tuple[str, str]]] = [
        [(by_proxy, "2001:db8::7")],
        [(by_proxy, "2001:DB8:0:0::0007")],
        [(by_cloudflare, "2001:0db8::7")],
        [(by_proxy, "10.0.0.1"), (by_proxy, "2001:db8::7")],
        [(by_proxy, "10.0.0.2, 2001:db8::7, 127.0.0.1")],
        [(by_cloudflare, "unknown"), (by_proxy, "2001:db8::7")],
        [(by_proxy, "::ffff:9.9.9.9")],
        [(by_proxy, "9.9.9.9")],
        # What is no address counts for the proxy itself.
        [(by_proxy, "10.0.0.3, nonsense")],
        [(by_proxy, "10.0.0.4, other nonsense")],
    ]
    statuses = []
    async with ClientSession() as http:
        for headers in calls:
            url = f"{server.url}/session/create"
            async with http.post(url, headers=CIMultiDict(headers)) as answer:
                statuses.append(answer.status)
    assert statuses == [200, *[429] * 5, 200, 429, 200, 429]


async def test_connections_over_the_limit_are_refused_at_each_of_two_workers(
    start_server: Start, redis: RedisServer
) -> None:
    one, other = (start_server(rate_limit_enabled=True, rate_limit_store=redis.url) for _ in "12")
    session_id = (await create(one.url))["session_id"]
    async with ClientSession() as http:
        for taken, worker in zip(range(1, 11), cycle([one, other]), strict=False):
            url = f"{worker.ws_url}/ws/control/{session_id}"
            async with http.ws_connect(url) as opened:
                headers = dict(opened._response.headers)
                assert limits_of(headers)[:2] == (10, 10 - taken)
        for worker in (one, other):
            with pytest.raises(WSServerHandshakeError) as refused:
                await http.ws_connect(f"{worker.ws_url}/ws/control/{session_id}")
            assert refused.value.status == 429
            headers = dict(refused.value.headers or {})
            assert limits_of(headers)[:2] == (10, 0)
            assert 1 <= int(headers["Retry-After"]) <= 60


async def test_the_sixtieth_text_of_a_minute_is_answered_and_the_next_refused(
    start_server: Start,
) -> None:
    server = start_server(rate_limit_enabled=True)
    async with talk(server) as talker:
        for number in range(60):
            await talker.text("one more", request_id=number)
        await talker.until("text_response", request_id=59)
        await talker.text("one too many")
        refused = await talker.until("error")
    assert refused["code"] == "RATE_LIMITED"
    assert 0 < refused["retry_after"] <= 60


async def test_the_last_audio_byte_of_a_second_is_taken_and_the_next_refused(
    start_server: Start,
) -> None:
    server = start_server(rate_limit_enabled=True)
    async with talk(server) as talker:
        await talker.send(bytes(600_000))
        await talker.send(bytes(400_000))
        await talker.send(bytes(2))
        refused = await talker.until("error")
        assert refused["code"] == "RATE_LIMITED"
        assert 0 < refused["retry_after"] <= 1
        await asyncio.sleep(refused["retry_after"])
        await talker.send(bytes(600_000))
        await talker.control("ping")
        await talker.until("control")
    assert [message["type"] for message in talker.seen].count("error") == 1


async def roll(url: str | None) -> None:
    async with counting(url) as counts:
        limit = AddressLimit(counts, "test", 2, period_s=2)
        assert (await limit.look(ADDRESS)).remaining == 2
        assert (await limit.take(ADDRESS)).remaining == 1
        await asyncio.sleep(0.5)
        assert (await limit.take(ADDRESS)).remaining == 0
        refused = await limit.take(ADDRESS)
        assert not refused.allowed
        assert not (await limit.look(ADDRESS)).allowed
        assert (await limit.take("203.0.113.8")).allowed
        # The first is forgotten half a second before the second is.
        await asyncio.sleep(refused.retry_after_s + 0.02)
        assert (await limit.take(ADDRESS)).allowed


async def test_a_window_rolls_and_what_is_refused_does_not_count(redis: RedisServer) -> None:
    await asyncio.gather(roll(None), roll(redis.url))


async def test_workers_that_share_a_redis_count_as_one(redis: RedisServer) -> None:
    async with counting(redis.url) as one, counting(redis.url) as other:
        limits = [AddressLimit(counts, "test", 20) for counts in (one, other)]
        verdicts = await asyncio.gather(*(limits[n % 2].take(ADDRESS) for n in range(30)))
    assert sum(verdict.allowed for verdict in verdicts) == 20


async def test_without_redis_each_worker_counts_by_itself_until_it_is_back(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_link, "TRY_AGAIN_S", 0.05)
    caplog.set_level(logging.WARNING, redis_link.__name__)
    before = failures()
    async with counting(redis.url) as counts:
        limit = AddressLimit(counts, "test", 3)
        assert (await limit.take(ADDRESS)).remaining == 2
        redis.stop()
        assert [(await limit.take(ADDRESS)).allowed for _ in range(5)] == [True] * 3 + [False] * 2
        assert [record.message.split(":")[0] for record in caplog.records] == [
            "redis does not answer"
        ]
        assert failures() > before
        redis.start()
        async with asyncio.timeout(WAIT_S):
            # The new Redis knows nothing: what it counts is not what the memory has counted.
            while not (await limit.take(ADDRESS)).allowed:
                await asyncio.sleep(0.02)
    assert len(caplog.records) == 2
    assert caplog.records[1].message == "redis answers again"


async def test_a_redis_that_accepts_but_never_answers_is_waited_for_once(
    start_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    # The kernel takes connections for it; nobody reads them.
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    caplog.set_level(logging.WARNING, redis_link.__name__)
    server = start_server(rate_limit_enabled=True, rate_limit_store=f"redis://127.0.0.1:{port}/0")
    async with ClientSession() as http:
        answers: list[Any] = [await creation(http, server) for _ in range(6)]
    silent.close()
    assert [status for status, _ in answers] == [200] * 5 + [429]
    assert len([r for r in caplog.records if r.name == redis_link.__name__]) == 1
