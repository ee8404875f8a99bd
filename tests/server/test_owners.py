"""A session that was made by a JWT is its subject's; for others it does not exist."""

import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession

from tests.support.redis_server import RedisServer
from tests.support.running_server import RunningServer
from tests.support.talker import create, talk

Start = Callable[..., RunningServer]
SECRET = "a secret of at least thirty-two bytes"
KEY = "the-key-of-the-house"
LOST = "00000000-0000-4000-8000-000000000000"


def by(subject: str | None) -> dict[str, str]:
    claims: dict[str, Any] = {"exp": time.time() + 86_400}
    if subject is not None:
        claims["sub"] = subject
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def guarded(start_server: Start, **settings: Any) -> RunningServer:
    return start_server(jwt_secret=SECRET, api_keys=(KEY,), **settings)


async def answers(server: RunningServer, session_id: str, headers: dict[str, str]) -> list[Any]:
    """Everything that a caller gets when it tries to see, open and end a session."""
    told: list[Any] = []
    async with ClientSession(headers=headers) as http:
        for line in ("audio", "control"):
            async with http.ws_connect(f"{server.ws_url}/ws/{line}/{session_id}") as socket:
                first = await socket.receive_json()
                del first["timestamp"]
                await socket.receive()
                told += [first, socket.close_code]
        for method in ("GET", "DELETE"):
            async with http.request(method, f"{server.url}/session/{session_id}") as answer:
                told += [answer.status, await answer.text()]
    return told


async def opens(server: RunningServer, session_id: str, headers: dict[str, str]) -> bool:
    async with talk(server, session_id, additional_headers=headers) as talker:
        return (await talker.next()).get("status") == "connected"


async def test_another_subject_is_told_what_is_told_of_no_session(start_server: Start) -> None:
    server = guarded(start_server)
    mine = await create(server.url, headers=by("alice"))
    none = await answers(server, LOST, by("mallory"))
    assert [part for part in none if isinstance(part, int)] == [4404, 4404, 404, 404]
    for stranger in (by("mallory"), by(None)):
        assert await answers(server, mine["session_id"], stranger) == none
    assert server.thread.service.sessions.has(mine["session_id"])


async def test_its_subject_the_operator_and_its_token_open_a_session(start_server: Start) -> None:
    server = guarded(start_server)
    mine = await create(server.url, headers=by("alice"))
    by_token = {"Authorization": f"Bearer {mine['token']}"}
    for headers in (by("alice"), {"X-API-Key": KEY}, by_token):
        assert await opens(server, mine["session_id"], headers)
        url = f"{server.url}/session/{mine['session_id']}"
        async with ClientSession() as http, http.get(url, headers=headers) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("maker", [{"X-API-Key": KEY}, by(None)])
async def test_what_no_subject_has_made_is_open_to_every_subject(
    start_server: Start, maker: dict[str, str]
) -> None:
    server = guarded(start_server)
    made = await create(server.url, headers=maker)
    assert await opens(server, made["session_id"], by("alice"))
    assert await opens(server, made["session_id"], by("mallory"))


async def test_at_another_worker_it_is_still_its_subjects(
    start_server: Start, redis: RedisServer
) -> None:
    one, other = (guarded(start_server, session_store=redis.url) for _ in "12")
    session_id = (await create(one.url, headers=by("alice")))["session_id"]
    none = await answers(other, LOST, by("mallory"))
    async with talk(one, session_id, additional_headers=by("alice")) as talker:
        await talker.text("hello")
        await talker.until("text_response")
        assert await answers(other, session_id, by("mallory")) == none
        # Nor has it been moved by the attempt.
        assert not other.thread.service.sessions.has(session_id)
        await talker.text("still here")
        await talker.until("text_response")
    assert await opens(other, session_id, by("alice"))
    assert other.thread.service.sessions.has(session_id)
    # Who has taken it over knows as well.
    assert await answers(other, session_id, by("mallory")) == none


async def test_without_redis_nobody_learns_of_a_session_elsewhere(
    start_server: Start, redis: RedisServer
) -> None:
    server = guarded(start_server, session_store=redis.url)
    none = await answers(server, LOST, by("mallory"))
    redis.stop()
    told = await answers(server, LOST, by("mallory"))
    assert told[:-2] == none[:-2]
