"""Spoken conversations for long: does memory grow, is a frame lost or sent twice?

Ten minutes by itself: `SOAK_MINUTES=2 python -m bench speech_soak` for another time.
"""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from bench.speech import FRAME_BYTES
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from tests.support.talker import open_socket
from tests.support.workers import running_process
from voxtral_worker.speech.voice import VOICE_RATE

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
PEOPLE = 3
LOOK_S = 5.0
# The worker sends at most so far ahead of the listener.
AHEAD_S = 2.0
TURN_S = 30.0
# Offsets are sent in thousandths of a millisecond.
ROUNDING_MS = 0.01


@dataclass
class Soak:
    """What people were answered, and the memory of the processes at that time, in MiB."""

    turns: int = 0
    answered: int = 0
    pieces: int = 0
    speech_s: float = 0.0
    # Pieces that do not begin where the one before has ended; frames of another length than sent.
    lost: int = 0
    doubled: int = 0
    wrong_length: int = 0
    frames_alone: int = 0
    worker_mib: list[int] = field(default_factory=list)
    voice_mib: list[int] = field(default_factory=list)


class Listener:
    """Checks that each piece begins where the one before has ended."""

    def __init__(self, soak: Soak) -> None:
        self._soak = soak
        self._piece: dict[str, Any] | None = None
        self._turn_id = ""
        self._end_ms = 0.0
        self.has_ended = asyncio.Event()

    async def read(self, socket: Any) -> None:
        """Until the socket is closed."""
        async for frame in socket:
            if isinstance(frame, bytes):
                self.hear(frame)
                continue
            message = json.loads(frame)
            if message["type"] == "audio":
                self._soak.lost += self._piece is not None
                self.take(message)

    def take(self, message: dict[str, Any]) -> None:
        """Take the message about a piece, whose sound is the next frame."""
        if message["turn_id"] != self._turn_id:
            self._turn_id, self._end_ms = message["turn_id"], 0.0
        gap_ms = message["offset_ms"] - self._end_ms
        self._soak.lost += gap_ms > ROUNDING_MS
        self._soak.doubled += gap_ms < -ROUNDING_MS
        self._end_ms = message["offset_ms"] + message["duration_ms"]
        self._piece = message

    def hear(self, frame: bytes) -> None:
        """Take a frame of sound."""
        piece, self._piece = self._piece, None
        if piece is None:
            self._soak.frames_alone += 1
            return
        self._soak.pieces += 1
        self._soak.speech_s += len(frame) / 2 / VOICE_RATE
        told = round(piece["duration_ms"] * VOICE_RATE / 1000)
        self._soak.wrong_length += told != len(frame) // 2
        if piece.get("final"):
            self._soak.answered += 1
            self.has_ended.set()


async def converse(url: str, soak: Soak, number: int, until_s: float) -> None:
    """One person's turns; each answer is heard to its end."""
    known = list(clips().values())
    config = json.dumps({"temperature": 0, "voice": "default"})
    # A socket and not our client: the client would hide what is wrong with frames.
    async with open_socket(f"{url}/ws/audio", config=config) as talker:
        socket = talker.socket
        listener = Listener(soak)
        reading = asyncio.create_task(listener.read(socket))
        turn = number
        while time.monotonic() < until_s:
            soak.turns += 1
            listener.has_ended.clear()
            await _say(socket, silence(8) + known[turn % len(known)] + silence(2))
            heard_by_s = time.monotonic() + TURN_S
            while not listener.has_ended.is_set() and time.monotonic() < heard_by_s:
                await _say(socket, silence(4))
            await _say(socket, silence(int((AHEAD_S + 0.5) * RATE / FRAME_SAMPLES)))
            turn += PEOPLE
        reading.cancel()


async def _say(socket: Any, audio: bytes) -> None:
    for at in range(0, len(audio), FRAME_BYTES):
        await socket.send(audio[at : at + FRAME_BYTES])
        await asyncio.sleep(FRAME_SAMPLES / RATE)


async def soak(url: str, worker: psutil.Process, minutes: float, people: int = PEOPLE) -> Soak:
    """Conversations for so long."""
    made = Soak()
    until_s = time.monotonic() + 60 * minutes
    talks = [asyncio.create_task(converse(url, made, n, until_s)) for n in range(people)]
    talking = asyncio.gather(*talks)
    while not talking.done():
        voice = [child for child in worker.children() if is_voice(child)]
        made.worker_mib.append(worker.memory_info().rss >> 20)
        made.voice_mib.append(sum(child.memory_info().rss for child in voice) >> 20)
        await asyncio.wait([talking], timeout=LOOK_S)
    await talking
    return made


def is_voice(process: psutil.Process) -> bool:
    """Whether a child of the worker is its voice."""
    return "voxtral_worker.speech.child" in " ".join(process.cmdline())


def run() -> None:
    """Print the table."""
    settings = {"SPEECH": "embedded", "RESPONSE_CACHE_SIZE": "0"}
    with running_process(settings) as worker:
        url = worker.url.replace("http", "ws", 1)
        made = asyncio.run(soak(url, psutil.Process(worker.process.pid), MINUTES))
    third = max(1, len(made.worker_mib) // 3)
    print(f"\n| spoken conversations, {MINUTES:g} minutes, {PEOPLE} people | |\n|---|---|")
    for name, value in (
        ("turns", made.turns),
        ("answers heard to their end", made.answered),
        ("speech, s", round(made.speech_s)),
        ("pieces", made.pieces),
        ("pieces lost", made.lost),
        ("pieces sent twice", made.doubled),
        ("frames of another length than told, or untold", made.wrong_length + made.frames_alone),
        ("memory of the worker, MiB", _thirds(made.worker_mib, third)),
        ("memory of the voice, MiB", _thirds(made.voice_mib, third)),
    ):
        print(f"| {name} | {value} |")


def _thirds(sizes: list[int], third: int) -> str:
    first, last = sizes[:third], sizes[-third:]
    return f"{np.mean(first):.0f} in the first third, {np.mean(last):.0f} in the last"
