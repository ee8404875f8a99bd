"""Random and mutated messages on both sockets disturb nobody else and are answered in kind."""

import asyncio
import json
import logging
import random
from collections.abc import Callable

import pytest
import websockets

from tests.server.running import RunningServer
from tests.server.talking import create, talk

Start = Callable[..., RunningServer]
MESSAGES = 500
SEEDS = (
    {"type": "text_input", "text": "Hello"},
    {"type": "control", "control_type": "interrupt"},
    {"type": "control", "control_type": "start_listening"},
    {"type": "control", "control_type": "configure", "config": {"temperature": 0.5}},
    {"type": "audio_chunk", "data": "AAAA", "format": "pcm16", "sample_rate": 16000},
    {"type": "ping"},
)
VALUES = (None, True, -1, 1e308, 2**70, "", "\0", "\ud800", "é" * 300, [], {}, [[[[]]]], {"a": {}})


def mutated(chance: random.Random) -> str | bytes:
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randrange(2000))
        case 1:
            return "".join(chr(chance.randrange(32, 0xD000)) for _ in range(chance.randrange(99)))
        case 2:
            text = json.dumps(chance.choice(SEEDS))
            return text[: chance.randrange(len(text))]
        case 3:
            return "[" * chance.randrange(3000)
    message = dict(chance.choice(SEEDS))
    message[chance.choice([*message, "extra"])] = chance.choice(VALUES)
    return json.dumps(message)


async def read(socket: websockets.ClientConnection, told: list[str]) -> None:
    async for raw in socket:
        message = json.loads(raw)
        told.append(message.get("code", "") if message["type"] == "error" else message["type"])


async def fuzz(server: RunningServer, line: str, chance: random.Random) -> list[str]:
    told: list[str] = []
    session_id = (await create(server.url))["session_id"]
    left = MESSAGES
    while left:
        async with talk(server, session_id, line) as talker:
            reader = asyncio.create_task(read(talker.socket, told))
            try:
                while left:
                    left -= 1
                    await talker.send(mutated(chance))
            except websockets.ConnectionClosed:
                pass
            await talker.socket.close()
            await asyncio.gather(reader, return_exceptions=True)
    return told


@pytest.mark.parametrize("line", ["audio", "control"])
async def test_mutated_messages_disturb_nobody_else(
    start_server: Start, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    async with talk(server) as other:
        await other.status("connected")
        async with asyncio.timeout(60):
            told = await fuzz(server, line, random.Random(20))
        assert told and "PROCESSING_ERROR" not in told
        await other.text("still there?")
        answer = await other.until("text_response")
    assert answer["text"] == "You said so."
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]
