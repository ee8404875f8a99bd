"""Two workers that share a Redis: a conversation begun at one continues at the other."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_client
import websockets
from aiohttp import ClientSession

from tests.support.metric_values import value_of
from tests.support.redis_server import RedisServer
from tests.support.running_server import RunningServer
from tests.support.talker import WAIT_S, create, talk
from voxtral_worker import metrics
from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, UserTurn
from voxtral_worker.server.shared import redis_link
from voxtral_worker.sessions.record import UNKNOWN_WORDS

Start = Callable[..., RunningServer]
ANSWER = "You said so."
LOST = "00000000-0000-4000-8000-000000000000"


def raw(redis: RedisServer) -> dict[bytes, bytes]:
    """Every record that Redis holds."""
    with redis_client.Redis.from_url(redis.url) as client:
        found = {key: client.hget(key, "record") for key in client.keys("*")}
    return {key: record for key, record in found.items() if record is not None}


def histories(redis: RedisServer) -> list[list[list[str]]]:
    return [json.loads(record)["history"] for record in raw(redis).values()]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def say(server: RunningServer, session_id: str, text: str, **options: Any) -> dict[str, Any]:
    async with talk(server, session_id, **options) as talker:
        await talker.text(text)
        return await talker.until("text_response")


async def status_of(server: RunningServer, session_id: str, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        ClientSession() as http,
        http.get(f"{server.url}/session/{session_id}", headers=headers) as answer,
    ):
        return answer.status


@pytest.fixture
def pair(start_server: Start, redis: RedisServer) -> tuple[RunningServer, RunningServer]:
    one, other = (
        start_server(session_store=redis.url, session_idle_timeout_seconds=60.0) for _ in "12"
    )
    return one, other


async def test_after_a_drain_the_conversation_goes_on_at_another_worker(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    one, other = pair
    config = {"system_prompt": "Be brief.", "language": "de"}
    session_id = (await create(one.url, json={"config": config}))["session_id"]
    async with talk(one, session_id) as talker:
        await talker.text("first")
        before = await talker.until("text_response")
        await asyncio.to_thread(one.thread.drain, 5.0)
        assert await talker.closed() == 1012
    async with talk(other, session_id, query=f"?last_seq={before['seq']}") as talker:
        resumed = await talker.status("resumed")
        await talker.text("second")
        processing = await talker.status("processing")
        after = await talker.until("text_response")
    assert resumed["missed"] == 0
    assert processing["seq"] == before["seq"] + 1
    assert after["turn_id"] != before["turn_id"]
    conversation = other.engine.requests[-1].conversation
    assert conversation.history == (Exchange(UserTurn(("first",)), AssistantTurn(text=ANSWER)),)
    assert (conversation.system_prompt, conversation.language) == ("Be brief.", "de")


async def test_a_client_that_moves_leaves_the_worker_it_came_from(
    pair: tuple[RunningServer, RunningServer], redis: RedisServer
) -> None:
    one, other = pair
    session_id = (await create(one.url))["session_id"]
    async with talk(one, session_id) as left_behind:
        await left_behind.text("first")
        await left_behind.until("text_response")
        await until(lambda: histories(redis) == [[["first", ANSWER]]])
        await say(other, session_id, "second")
        # It notices when it next writes to Redis, at the latest with the next refresh.
        assert await left_behind.closed() == 4409
    assert len(other.engine.requests[-1].conversation.history) == 1
    await until(lambda: histories(redis) == [[["first", ANSWER], ["second", ANSWER]]])
    await say(one, session_id, "third")
    asked = [exchange.user.parts for exchange in one.engine.requests[-1].conversation.history]
    assert asked == [("first",), ("second",)]


async def test_a_session_created_at_one_worker_is_known_at_the_other_at_once(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    one, other = pair
    session_id = (await create(one.url, json={"config": {"language": "fr"}}))["session_id"]
    async with ClientSession() as http:
        async with http.get(f"{other.url}/session/{session_id}") as answer:
            told = await answer.json()
            assert (told["status"], told["config"]["language"]) == ("active", "fr")
            assert told["stats"]["open_connections"] == 0
        async with http.get(f"{other.url}/session/{LOST}") as answer:
            assert answer.status == 404
    # To ask about it does not move it.
    await say(one, session_id, "still here")
    async with talk(other, LOST) as talker:
        assert await talker.closed() == 4404
    async with talk(other, "no-id") as talker:
        assert await talker.closed() == 4404


async def test_a_session_deleted_at_one_worker_ends_at_the_other(
    pair: tuple[RunningServer, RunningServer], redis: RedisServer
) -> None:
    one, other = pair
    session_id = (await create(one.url))["session_id"]
    async with talk(one, session_id) as talker, ClientSession() as http:
        await talker.status("connected")
        async with http.delete(f"{other.url}/session/{session_id}") as answer:
            assert answer.status == 200
        async with http.delete(f"{other.url}/session/{session_id}") as answer:
            assert answer.status == 404
        async with http.delete(f"{other.url}/session/no-id") as answer:
            assert answer.status == 404
        assert await talker.closed() == 1000
    assert raw(redis) == {}
    assert [await status_of(server, session_id) for server in pair] == [404, 404]


async def test_a_session_that_expires_leaves_nothing_behind(
    start_server: Start, redis: RedisServer
) -> None:
    one, other = (
        start_server(session_store=redis.url, session_idle_timeout_seconds=1.0) for _ in "12"
    )
    session_id = (await create(one.url))["session_id"]
    assert len(raw(redis)) == 1
    await until(lambda: not raw(redis))
    async with talk(other, session_id) as talker:
        assert await talker.closed() == 4404


async def test_a_sessions_token_is_good_at_every_worker_until_the_session_ends(
    start_server: Start, redis: RedisServer
) -> None:
    one, other = (
        start_server(session_store=redis.url, api_keys=keys) for keys in (("a", "b"), ("b", "a"))
    )
    mine, theirs = [await create(one.url, headers={"X-API-Key": "a"}) for _ in "12"]
    session_id, token = mine["session_id"], mine["token"]
    assert await status_of(other, session_id, token) == 200
    assert await status_of(other, theirs["session_id"], token) == 403
    await say(other, session_id, "hello", query=f"?token={token}")
    async with ClientSession() as http:
        url = f"{other.url}/session/{session_id}?token={token}"
        assert (await http.delete(url)).status == 200
        assert (await http.delete(url)).status == 401


async def test_a_full_worker_takes_no_session_over(start_server: Start, redis: RedisServer) -> None:
    one = start_server(session_store=redis.url)
    full = start_server(session_store=redis.url, max_sessions=1)
    await create(full.url)
    session_id = (await create(one.url))["session_id"]
    with pytest.raises(websockets.InvalidStatus) as refused:
        await say(full, session_id, "hello")
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body or b"")["code"] == "AT_CAPACITY"
    assert (await say(one, session_id, "hello"))["text"] == ANSWER


async def test_sound_is_never_written_and_a_note_stands_for_it(
    pair: tuple[RunningServer, RunningServer], redis: RedisServer, clip: bytes
) -> None:
    one, other = pair
    session_id = (await create(one.url))["session_id"]
    async with talk(one, session_id) as talker:
        for start in range(0, len(clip), 3200):
            await talker.send(clip[start : start + 3200])
        await talker.until("text_response")
        await until(lambda: histories(redis) == [[[UNKNOWN_WORDS, ANSWER]]])
    (record,) = raw(redis).values()
    assert len(record) < 500
    await say(other, session_id, "and now?")
    (exchange,) = other.engine.requests[-1].conversation.history
    assert exchange.user.parts == (UNKNOWN_WORDS,)


async def test_a_turn_that_is_cut_by_a_move_is_sent_again_and_answered_once(
    pair: tuple[RunningServer, RunningServer], redis: RedisServer, clip: bytes
) -> None:
    one, other = pair
    session_id = (await create(one.url))["session_id"]
    half = len(clip) // 6400 * 3200
    async with talk(one, session_id) as talker:
        # A whole turn first, and a second one that is cut.
        await talker.send(clip)
        await talker.until("text_response")
        await talker.send(clip[:half])
        await talker.status("speech_started")
        last_seq = max(message.get("seq", 0) for message in talker.seen)
        await until(lambda: histories(redis) == [[[UNKNOWN_WORDS, ANSWER]]])
        async with talk(other, session_id, query=f"?last_seq={last_seq}") as moved:
            accepted = (await moved.status("resumed"))["audio_bytes_received"]
            assert 0 < accepted <= len(clip)
            sound = (clip + clip)[accepted:]
            for start in range(0, len(sound), 3200):
                await moved.send(sound[start : start + 3200])
            response = await moved.until("text_response")
    assert response["seq"] > last_seq
    assert len(one.engine.requests) == 1
    (request,) = other.engine.requests
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert len(audio.samples) * 2 > half
    assert len(request.conversation.history) == 1


async def test_two_connections_at_once_take_a_session_over_once(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    one, other = pair
    session_id = (await create(one.url))["session_id"]
    before = value_of(metrics.sessions_taken_over)
    async with ClientSession() as http:
        urls = [f"{other.ws_url}/ws/{line}/{session_id}" for line in ("audio", "control")]
        sockets = await asyncio.gather(*(http.ws_connect(url) for url in urls))
        for socket in sockets:
            assert (await socket.receive_json())["status"] == "connected"
            await socket.close()
    assert value_of(metrics.sessions_taken_over) == before + 1


async def test_without_redis_a_session_goes_on_and_is_written_when_it_is_back(
    start_server: Start,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_link, "TRY_AGAIN_S", 0.05)
    caplog.set_level(logging.WARNING, redis_link.__name__)
    one = start_server(session_store=redis.url, session_idle_timeout_seconds=60.0)
    session_id = (await create(one.url))["session_id"]
    async with talk(one, session_id) as talker:
        redis.stop()
        for number in range(3):
            await talker.text(f"text {number}")
            assert (await talker.until("text_response"))["text"] == ANSWER
        assert (await create(one.url))["status"] == "created"
        redis.start()
        await until(lambda: any(len(history) == 3 for history in histories(redis)))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "redis does not answer",
        "redis answers again",
    ]


async def test_a_record_that_cannot_be_used_is_no_session(
    pair: tuple[RunningServer, RunningServer],
    redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_client.Redis.from_url(redis.url) as client:
        client.hset(f"voxtral:session:{LOST}", "record", '{"version": 99}')
    async with talk(pair[0], LOST) as talker:
        assert await talker.closed() == 4404
    assert "version 99" in caplog.text
