"""Messages that are not audio are counted before they are read."""

import asyncio
import json
from collections.abc import Callable

import aiohttp
import pytest

from tests.support.running_server import RunningServer
from tests.support.talker import talk

Start = Callable[..., RunningServer]


async def test_the_last_message_of_ten_seconds_is_read_and_the_next_refused(
    start_server: Start,
) -> None:
    server = start_server(rate_limit_enabled=True)
    async with talk(server) as talker:
        for _ in range(601):
            await talker.control("ping")
        refused = await talker.until("error")
    assert refused["code"] == "RATE_LIMITED"
    assert 0 < refused["retry_after"] <= 10


async def test_more_bytes_of_messages_than_a_second_takes_are_refused(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True)
    async with talk(server) as talker:
        await talker.send(" " * (1 << 18))
        assert (await talker.until("error"))["code"] == "INVALID_REQUEST"
        await talker.send(" " * 300_000)
        refused = await talker.until("error")
    assert refused["code"] == "RATE_LIMITED"


@pytest.mark.parametrize("bad", ["no JSON", b"odd"])
async def test_whoever_sends_nothing_but_what_is_refused_is_closed(
    start_server: Start, bad: str | bytes
) -> None:
    server = start_server(rate_limit_enabled=True)
    async with talk(server, line="control") as talker:
        for _ in range(201):
            await talker.send(bad)
        assert await talker.closed() == 4429


async def test_a_session_that_only_asks_is_idle(start_server: Start) -> None:
    server = start_server(session_idle_timeout_seconds=1.0)
    async with talk(server) as talker:

        async def ask() -> None:
            while True:
                await talker.control("ping")
                await talker.control("get_stats")
                await asyncio.sleep(0.1)

        asking = asyncio.create_task(ask())
        assert await talker.closed() == 4408
        asking.cancel()


async def test_realtime_events_without_audio_are_counted(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True)
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.ws_url}/v1/realtime") as socket,
    ):
        for _ in range(601):
            await socket.send_json({"type": "session.update", "session": {"type": "realtime"}})
        async with asyncio.timeout(45):
            async for frame in socket:
                told = json.loads(frame.data)
                if told["type"] == "error":
                    break
    assert told["error"]["code"] == "rate_limit_exceeded"
