"""The limits of an address to their edges, at one worker and at two that share a Redis."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any

import pytest
import redis as redis_client
from aiohttp import ClientSession, WSServerHandshakeError
from multidict import CIMultiDict

from tests.support.metric_values import value_of
from tests.support.redis_server import RedisServer
from tests.support.running_server import LOOPBACK, RunningServer
from tests.support.talker import create, talk
from voxtral_worker import metrics
from voxtral_worker.server.gate import address_limits
from voxtral_worker.server.gate.address_limits import AddressLimit, AddressTable, Counts
from voxtral_worker.server.shared import redis_link

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
    return float(value_of(metrics.redis_failures.labels("limits")))


@pytest.mark.parametrize("is_shared", [False, True])
async def test_the_last_session_within_the_limit_is_created_and_the_next_refused(
    start_server: Start, request: pytest.FixtureRequest, is_shared: bool
) -> None:
    store = request.getfixturevalue("redis").url if is_shared else None
    workers = [
        start_server(rate_limit_enabled=True, rate_limit_store=store, trusted_proxies=LOOPBACK)
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
        trusted_proxies=LOOPBACK,
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
        # A client with one address has all of its network.
        [(by_proxy, "2001:db8::8")],
        [(by_proxy, "2001:db8:0:1::8")],
        # A text that is not an address counts for the proxy itself.
        [(by_proxy, "10.0.0.3, nonsense")],
        [(by_proxy, "10.0.0.4, other nonsense")],
    ]
    statuses = []
    async with ClientSession() as http:
        for headers in calls:
            url = f"{server.url}/session/create"
            async with http.post(url, headers=CIMultiDict(headers)) as answer:
                statuses.append(answer.status)
    assert statuses == [200, *[429] * 5, 200, 429, 429, 200, 200, 429]


async def test_this_machine_itself_is_not_counted_and_still_told_the_limit(
    start_server: Start,
) -> None:
    server = start_server(rate_limit_enabled=True)
    session_id = ""
    async with ClientSession() as http:
        for _ in range(7):
            async with http.post(f"{server.url}/session/create") as answer:
                assert answer.status == 200
                assert limits_of(dict(answer.headers))[:2] == (5, 5)
                session_id = (await answer.json())["session_id"]
        for _ in range(12):
            async with http.ws_connect(f"{server.ws_url}/ws/control/{session_id}") as opened:
                assert limits_of(dict(opened._response.headers))[:2] == (10, 10)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
async def test_what_a_proxy_that_nobody_named_passes_on_is_not_from_this_machine(
    start_server: Start, header: str
) -> None:
    server = start_server(rate_limit_enabled=True, rate_limit_sessions_per_minute=1)
    statuses = []
    async with ClientSession(headers={header: "203.0.113.7"}) as http:
        for _ in range(2):
            statuses.append((await creation(http, server))[0])
    assert statuses == [200, 429]


async def test_connections_over_the_limit_are_refused_at_each_of_two_workers(
    start_server: Start, redis: RedisServer
) -> None:
    one, other = (
        start_server(rate_limit_enabled=True, rate_limit_store=redis.url, trusted_proxies=LOOPBACK)
        for _ in "12"
    )
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


async def test_a_clock_that_is_set_back_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(None) as counts:
        limit = AddressLimit(counts, "test", 1, period_s=1)
        assert (await limit.take(ADDRESS)).allowed
        monkeypatch.setattr(time, "time", lambda: 1.6e9)
        refused = await limit.take(ADDRESS)
        assert not refused.allowed
        assert refused.retry_after_s <= 1
        assert refused.reset_s == pytest.approx(1.6e9 + refused.retry_after_s)
        await asyncio.sleep(refused.retry_after_s + 0.01)
        assert (await limit.take(ADDRESS)).allowed


async def test_redis_counts_by_its_own_clock_and_forgets_what_lies_ahead_of_it(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.6e9)
    async with counting(redis.url) as counts:
        limit = AddressLimit(counts, "test", 2, period_s=3600)
        assert [(await limit.take(ADDRESS)).remaining for _ in "12"] == [1, 0]
        assert not (await limit.take(ADDRESS)).allowed
        with redis_client.Redis.from_url(redis.url) as client:
            (key,) = client.keys("*")
            ahead = {member: score + 1e10 for member, score in client.zscan(key)[1]}
            client.zadd(key, ahead)
        assert (await limit.take(ADDRESS)).remaining == 1


def test_addresses_are_remembered_up_to_a_number_the_latest_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_limits, "MOST_ADDRESSES", 3)
    table = AddressTable(1, 60.0)
    assert all(table.take(f"203.0.113.{number}").allowed for number in range(10))
    assert len(table) == 3
    assert not table.take("203.0.113.9").allowed
    assert not table.look("203.0.113.8").allowed
    assert table.take("203.0.113.1").allowed


async def test_who_guesses_credentials_too_often_is_refused_whatever_they_say(
    start_server: Start,
) -> None:
    key = "the-key-of-the-house"
    server = start_server(rate_limit_enabled=True, api_keys=(key,), trusted_proxies=LOOPBACK)

    async def call(address: str, credential: str) -> tuple[int, dict[str, str]]:
        headers = {"X-Forwarded-For": address, "X-API-Key": credential}
        async with http.get(f"{server.url}/health", headers=headers) as answer:
            return answer.status, dict(answer.headers)

    async with ClientSession() as http:
        for number in range(20):
            # A call that is not a guess does not count.
            assert (await call(ADDRESS, ""))[0] == 401
            assert (await call(ADDRESS, key))[0] == 200
            assert (await call(ADDRESS, f"guess {number}"))[0] == 401
        for credential in ("one more", key):
            status, headers = await call(ADDRESS, credential)
            assert status == 429
            assert 1 <= int(headers["Retry-After"]) <= 60
        assert (await call("203.0.113.8", key))[0] == 200
        async with http.get(f"{server.url}/ping", headers={"X-Forwarded-For": ADDRESS}) as answer:
            assert answer.status == 200


async def test_a_call_with_many_credentials_has_none_of_them_checked(start_server: Start) -> None:
    key = "the-key-of-the-house"
    server = start_server(api_keys=(key,))
    names = [f"openai-insecure-api-key.{number}" for number in range(4)]
    async with ClientSession() as http:
        for more, status in ((names[:3], 400), (names, 401)):
            headers = {"X-API-Key": key, "Sec-WebSocket-Protocol": ", ".join(more)}
            async with http.get(f"{server.url}/v1/realtime", headers=headers) as answer:
                assert answer.status == status


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
    # The kernel takes connections for it; they are not read.
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    caplog.set_level(logging.WARNING, redis_link.__name__)
    server = start_server(
        rate_limit_enabled=True,
        rate_limit_store=f"redis://127.0.0.1:{port}/0",
        trusted_proxies=LOOPBACK,
    )
    async with ClientSession() as http:
        answers: list[Any] = [await creation(http, server) for _ in range(6)]
    silent.close()
    assert [status for status, _ in answers] == [200] * 5 + [429]
    assert len([r for r in caplog.records if r.name == redis_link.__name__]) == 1
