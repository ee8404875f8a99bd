"""The socket cut at random moments: what is lost or doubled when the client comes back."""

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import websockets

from bench.load_speakers import CONFIG, clips, silence

CUTS = 300
CUTS_PER_SESSION = 10
CHUNK_BYTES = 2048
TIMEOUT_S = 60.0


@dataclass
class Heard:
    """What a client has seen of one session, over all its connections."""

    messages: dict[int, str] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    audio_bytes_astray: int = 0
    cuts: int = 0

    def take(self, message: dict[str, Any]) -> None:
        """Count a numbered message."""
        seq = message["seq"]
        self.doubled += seq in self.messages
        self.lost += max(0, seq - len(self.messages) - 1)
        self.messages[seq] = json.dumps(message)

    def texts(self) -> list[str]:
        """The responses, in the order of their numbers."""
        messages = [json.loads(self.messages[seq]) for seq in sorted(self.messages)]
        return [m["text"] for m in messages if m["type"] == "text_response"]


def stream(sentences: int, rng: random.Random) -> bytes:
    """Sentences one after another."""
    known = list(clips().values())
    return silence(30) + b"".join(rng.choice(known) + silence(25) for _ in range(sentences))


async def converse(
    url: str, audio: bytes, turns: int, cut_at: list[int], rng: random.Random
) -> Heard:
    """Send it all, cut at those bytes; returns when every turn is answered."""
    heard, at = Heard(), 0
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/session/create", json={"config": CONFIG}) as created,
    ):
        session = await created.json()
    address = url.replace("http", "ws", 1) + session["websocket_url"]
    for stop in [*cut_at, None]:
        async with websockets.connect(
            f"{address}?last_seq={len(heard.messages)}", max_size=None
        ) as socket:
            accepted = await _resumed(socket, heard)
            heard.audio_bytes_astray += max(0, accepted - at)
            at = accepted
            reading = asyncio.create_task(_read(socket, heard, turns))
            at = await _send(socket, audio, at, len(audio) if stop is None else stop)
            if stop is None:
                await asyncio.wait_for(reading, TIMEOUT_S)
                break
            # Messages are on their way meanwhile: the cut falls anywhere among them.
            await asyncio.sleep(rng.uniform(0, 0.3))
            socket.transport.abort()
            heard.cuts += 1
            await asyncio.wait([reading])
    # Once more: what was accepted in all, and whether anything came after the last answer.
    async with websockets.connect(f"{address}?last_seq={len(heard.messages)}") as socket:
        heard.audio_bytes_astray += abs(await _resumed(socket, heard) - len(audio))
    async with aiohttp.ClientSession() as http:
        await http.delete(f"{url}/session/{session['session_id']}")
    return heard


async def _resumed(socket: Any, heard: Heard) -> int:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            message = json.loads(await socket.recv())
            if message.get("status") == "resumed":
                heard.lost += message["missed"]
                return int(message["audio_bytes_received"])
            if "seq" in message and message["type"] != "heartbeat":
                heard.take(message)


async def _send(socket: Any, audio: bytes, at: int, stop: int) -> int:
    while at < stop:
        chunk = audio[at : min(stop, at + CHUNK_BYTES)]
        await socket.send(chunk)
        at += len(chunk)
    return at


async def _read(socket: Any, heard: Heard, turns: int) -> None:
    try:
        while len(heard.texts()) < turns:
            message = json.loads(await socket.recv())
            if "seq" in message and message["type"] != "heartbeat":
                heard.take(message)
    except websockets.ConnectionClosed:
        return


async def compare(url: str, cuts: int, rng: random.Random) -> tuple[Heard, bool]:
    """One session cut so often beside the same session whole; whether their texts are equal."""
    turns = 3
    audio = stream(turns, rng)
    cut_at = sorted(2 * rng.randrange(len(audio) // 2) for _ in range(cuts))
    whole = await converse(url, audio, turns, [], rng)
    cut = await converse(url, audio, turns, cut_at, rng)
    return cut, cut.texts() == whole.texts()


def run(url: str, cuts: int = CUTS) -> None:
    """Print the table."""
    rng = random.Random(11)
    sessions = [
        asyncio.run(compare(url, CUTS_PER_SESSION, rng)) for _ in range(cuts // CUTS_PER_SESSION)
    ]
    lost = sum(heard.lost for heard, _ in sessions)
    doubled = sum(heard.doubled for heard, _ in sessions)
    astray = sum(heard.audio_bytes_astray for heard, _ in sessions)
    messages = sum(len(heard.messages) for heard, _ in sessions)
    equal = sum(is_equal for _, is_equal in sessions)
    print("\n| cuts | messages | lost | doubled | audio bytes astray | sessions with equal text |")
    print("| --- | --- | --- | --- | --- | --- |")
    total = sum(heard.cuts for heard, _ in sessions)
    print(f"| {total} | {messages} | {lost} | {doubled} | {astray} | {equal} of {len(sessions)} |")
