"""Cuts the socket at random moments: is anything lost or repeated when the client comes back?"""

import asyncio
import json
import random
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import websockets

from bench.load_speakers import CONFIG
from tests.support.sounds import clips, silence
from tests.support.talker import address_of, delete, new_session

CUTS = 300
CUTS_PER_SESSION = 10
CHUNK_BYTES = 2048
TIMEOUT_S = 60.0


@dataclass
class Heard:
    """All messages that a client has got of one session, over all its connections."""

    messages: dict[int, str] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    audio_bytes_astray: int = 0
    cuts: int = 0
    cuts_in_a_frame: int = 0

    def take(self, message: dict[str, Any]) -> None:
        """Count a numbered message."""
        seq = message["seq"]
        self.doubled += seq in self.messages
        self.lost += max(0, seq - len(self.messages) - 1)
        self.messages[seq] = json.dumps(message)

    def in_order(self) -> list[dict[str, Any]]:
        """The messages by their numbers."""
        return [json.loads(self.messages[seq]) for seq in sorted(self.messages)]

    def texts(self) -> list[str]:
        """The responses, in the order of their numbers."""
        return [m["text"] for m in self.in_order() if m["type"] == "text_response"]

    def answers(self) -> list[dict[str, Any]]:
        """The responses, and the errors of turns that got none, in the order of their numbers."""
        return [
            m
            for m in self.in_order()
            if m["type"] == "text_response" or (m["type"] == "error" and m.get("turn_id"))
        ]

    def interrupted(self) -> int:
        """The number of responses that speech has interrupted."""
        return sum(m.get("finish_reason") == "interrupted" for m in self.in_order())

    def broken(self) -> int:
        """Turns whose joined deltas differ from their final text."""
        deltas: dict[str, str] = defaultdict(str)
        finals: dict[str, list[str]] = defaultdict(list)
        for message in self.in_order():
            if message["type"] == "text_delta":
                deltas[message["turn_id"]] += message["text"]
            elif message["type"] == "text_response":
                finals[message["turn_id"]].append(message["text"])
        return sum(finals[turn] != [deltas[turn]] for turn in {*deltas, *finals})


def stream(sentences: int, rng: random.Random) -> bytes:
    """Sentences one after another."""
    known = list(clips().values())
    return silence(30) + b"".join(rng.choice(known) + silence(25) for _ in range(sentences))


async def converse(
    url: str,
    audio: bytes,
    turns: int,
    cut_at: list[int],
    rng: random.Random,
    *,
    barge_in: bool = False,
) -> Heard:
    """Send the stream, cut at these bytes; returns when every turn is answered."""
    heard, at = Heard(), 0
    session_id = await new_session(url, **{**CONFIG, "barge_in": barge_in})
    address = address_of(url, "audio", session_id)
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
            await _cut(socket, heard, rng)
            await asyncio.wait([reading])
    # Connect once more: how many bytes were accepted in all, and did anything come after the last
    # answer?
    async with websockets.connect(f"{address}?last_seq={len(heard.messages)}") as socket:
        heard.audio_bytes_astray += abs(await _resumed(socket, heard) - len(audio))
    await delete(url, session_id)
    return heard


async def _cut(socket: Any, heard: Heard, rng: random.Random) -> None:
    heard.cuts += 1
    if rng.random() < 0.5:
        # A binary frame that is shorter than its header says.
        heard.cuts_in_a_frame += 1
        mask = rng.randbytes(4)
        header = struct.pack("!BBH", 0x82, 0x80 | 126, CHUNK_BYTES) + mask
        socket.transport.write(header + rng.randbytes(rng.randrange(CHUNK_BYTES)))
    # Messages arrive during this pause, so the cut is at a random place among them.
    await asyncio.sleep(rng.uniform(0, 0.3))
    socket.transport.abort()


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
        while len(heard.answers()) < turns:
            message = json.loads(await socket.recv())
            if "seq" in message and message["type"] != "heartbeat":
                heard.take(message)
    except websockets.ConnectionClosed:
        return


async def compare(url: str, cuts: int, rng: random.Random, *, barge_in: bool) -> tuple[Heard, bool]:
    """Cut one session some times, and compare its messages with those of a session without cuts.

    With barge-in, timing decides how long a response gets. Then each turn is checked by itself: its
    joined deltas must be its final text.
    """
    turns = 3
    audio = stream(turns, rng)
    cut_at = sorted(2 * rng.randrange(len(audio) // 2) for _ in range(cuts))
    cut = await converse(url, audio, turns, cut_at, rng, barge_in=barge_in)
    if barge_in:
        return cut, not cut.broken() and len(cut.texts()) == turns
    whole = await converse(url, audio, turns, [], rng)
    return cut, cut.texts() == whole.texts() and not cut.broken()


@dataclass(frozen=True)
class Sum:
    """All sessions of one kind."""

    cuts: int
    in_a_frame: int
    messages: int
    lost: int
    doubled: int
    astray: int
    interrupted: int
    right: int
    sessions: int

    def row(self) -> str:
        """A line of the table."""
        return (
            f"{self.cuts}, {self.in_a_frame} | {self.messages} | {self.lost} | {self.doubled} "
            f"| {self.astray} | {self.interrupted} | {self.right} of {self.sessions}"
        )


def cut(url: str, cuts: int, rng: random.Random, *, barge_in: bool) -> Sum:
    """Run sessions one after the other until there were so many cuts."""
    several = min(cuts, CUTS_PER_SESSION)
    sessions = [
        asyncio.run(compare(url, several, rng, barge_in=barge_in)) for _ in range(cuts // several)
    ]
    all_heard = [heard for heard, _ in sessions]
    return Sum(
        sum(heard.cuts for heard in all_heard),
        sum(heard.cuts_in_a_frame for heard in all_heard),
        sum(len(heard.messages) for heard in all_heard),
        sum(heard.lost for heard in all_heard),
        sum(heard.doubled for heard in all_heard),
        sum(heard.audio_bytes_astray for heard in all_heard),
        sum(heard.interrupted() for heard in all_heard),
        sum(is_right for _, is_right in sessions),
        len(sessions),
    )


def run(url: str, cuts: int = CUTS) -> list[Sum]:
    """Print the table."""
    rng = random.Random(11)
    print("\n| barge-in | cuts, of them in a frame | messages | lost | doubled", end=" ")
    print("| audio bytes astray | responses interrupted | sessions told the same |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    sums = []
    for barge_in in (False, True):
        sums.append(cut(url, cuts // 2, rng, barge_in=barge_in))
        print(f"| {'on' if barge_in else 'off'} | {sums[-1].row()} |", flush=True)
    return sums
