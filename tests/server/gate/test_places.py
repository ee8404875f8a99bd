"""No caller takes all places of a worker."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession, WSMsgType

from tests.support.redis_server import RedisServer
from tests.support.running_server import LOOPBACK, RunningServer
from tests.support.talker import WAIT_S
from voxtral_worker.errors import RateLimited
from voxtral_worker.server.gate.places import Places
from voxtral_worker.settings import Settings

Start = Callable[..., RunningServer]
HERE, THERE = "203.0.113.7", "203.0.113.8"
SECRET = "a secret of at least thirty-two bytes"


def limited(start_server: Start, **settings: Any) -> RunningServer:
    given = {"max_sessions_per_address": 2, "rate_limit_sessions_per_minute": 100, **settings}
    return start_server(rate_limit_enabled=True, trusted_proxies=LOOPBACK, **given)


async def created(server: RunningServer, address: str, **headers: str) -> dict[str, Any]:
    headers["X-Forwarded-For"] = address
    async with (
        ClientSession(headers=headers) as http,
        http.post(f"{server.url}/session/create") as answer,
    ):
        told: dict[str, Any] = await answer.json()
        return {"status_code": answer.status, **told}


async def delete(server: RunningServer, session_id: str) -> None:
    async with ClientSession() as http, http.delete(f"{server.url}/session/{session_id}") as answer:
        assert answer.status == 200


async def test_an_address_has_so_many_sessions_at_once_and_another_its_own(
    start_server: Start,
) -> None:
    server = limited(start_server)
    first = await created(server, HERE)
    assert (await created(server, HERE))["status_code"] == 200
    refused = await created(server, HERE)
    assert (refused["status_code"], refused["code"]) == (429, "RATE_LIMITED")
    assert (await created(server, THERE))["status_code"] == 200
    await delete(server, first["session_id"])
    assert (await created(server, HERE))["status_code"] == 200
    assert (await created(server, HERE))["status_code"] == 429


async def test_realtime_sockets_count_until_they_are_closed(start_server: Start) -> None:
    server = limited(start_server, max_sessions_per_address=1)
    async with ClientSession(headers={"X-Forwarded-For": HERE}) as http:
        async with http.ws_connect(f"{server.ws_url}/v1/realtime") as socket:
            assert (await socket.receive_json())["type"] == "session.created"
            assert (await created(server, HERE))["status_code"] == 429
            await socket.close()
            while (await socket.receive()).type is not WSMsgType.CLOSED:
                pass
        async with asyncio.timeout(WAIT_S):
            while (await created(server, HERE))["status_code"] != 200:
                await asyncio.sleep(0.01)


async def test_the_subject_of_a_jwt_has_its_places_wherever_it_is(start_server: Start) -> None:
    server = limited(start_server, jwt_secret=SECRET, max_sessions_per_address=1)

    async def create(address: str, subject: str) -> int:
        token = jwt.encode({"exp": time.time() + 60, "sub": subject}, SECRET, algorithm="HS256")
        told = await created(server, address, Authorization=f"Bearer {token}")
        return int(told["status_code"])

    assert await create(HERE, "alice") == 200
    assert await create(THERE, "alice") == 429
    assert await create(HERE, "bob") == 200


async def test_a_session_taken_over_counts_where_it_is(
    start_server: Start, redis: RedisServer
) -> None:
    one, other = (
        limited(start_server, max_sessions_per_address=1, session_store=redis.url) for _ in "12"
    )
    session_id = (await created(one, HERE))["session_id"]
    assert (await created(other, HERE))["status_code"] == 200
    async with (
        ClientSession(headers={"X-Forwarded-For": HERE}) as http,
        http.get(
            f"{other.url}/ws/audio/{session_id}",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        ) as answer,
    ):
        assert answer.status == 429


async def test_whoever_has_no_place_left_is_still_told_that_a_session_is_over(
    start_server: Start, redis: RedisServer
) -> None:
    server = limited(start_server, max_sessions_per_address=1, session_store=redis.url)
    assert (await created(server, HERE))["status_code"] == 200
    async with (
        ClientSession(headers={"X-Forwarded-For": HERE}) as http,
        http.ws_connect(f"{server.ws_url}/ws/audio/00000000-0000-4000-8000-000000000000") as socket,
    ):
        assert (await socket.receive_json())["code"] == "SESSION_NOT_FOUND"
        await socket.receive()
        assert socket.close_code == 4404


def test_without_a_setting_a_caller_has_a_fifth_of_the_places_but_some() -> None:
    assert Places(Settings()).most == 10
    assert Places(Settings(max_sessions=3)).most == 5
    assert Places(Settings(max_sessions=3, max_sessions_per_address=2)).most == 2


def test_places_are_counted_by_caller_and_forgotten_with_the_session() -> None:
    places = Places(Settings(max_sessions_per_address=1))
    places.take("s1", HERE)
    with pytest.raises(RateLimited):
        places.require_room(HERE)
    places.take("s2", None)
    places.require_room(None)
    for session_id in ("s1", "s2", "never seen"):
        places.leave(session_id)
    places.require_room(HERE)
    assert (places._caller_of, dict(places._sessions)) == ({}, {})
    off = Places(Settings(max_sessions_per_address=1, rate_limit_enabled=False))
    off.take("s1", HERE)
    off.require_room(HERE)
