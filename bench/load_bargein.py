"""Measures the time from the start of speech until the interrupted sequence has left the batch.

It does so for clients that read their messages, and for clients that do not.

The model has random weights and a large vocabulary, so that its responses hardly ever end by
themselves: each utterance interrupts the response to the one before.
"""

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import torch
import websockets

from bench.load_speakers import loud_frames, percentile, samples_of
from tests.support.random_model import Shape, write_random_model
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from tests.support.talker import address_of, delete, new_session
from tests.support.workers import running_worker

# The shape of the embedded model, with a larger vocabulary.
SHAPE = Shape(128, 4, 4, 192, 512, 4, 6, 2, 32, 20_000, 36, "50MB")
CONFIG: dict[str, object] = {"temperature": 2, "top_p": 1, "max_length": 1500, "silence_ms": 300}
FRAME_BYTES = 2 * FRAME_SAMPLES
TIMEOUT_S = 60.0
# So many answers of 300 bytes fill the buffers between the worker and a client that does not read.
FLOOD = 1500
CUT_OFF = "voxtral_slow_clients_total"
GONE = "voxtral_cancel_seconds_count"
TOOK = "voxtral_cancel_seconds_sum"
# A sentence lasts two seconds.
PATIENCE_S = 5.0
# Many steps of the engine.
SETTLED_S = 0.5


def utterance() -> tuple[bytes, int]:
    """A sentence with quiet before it, and the frame in which the sound begins."""
    audio = silence(8) + clips()["turn on the kitchen light"] + silence(14)
    return audio, int(loud_frames(audio, 0.1)[0])


@dataclass
class Talker:
    """One session."""

    websocket: Any
    told_s: list[float] = field(default_factory=list)

    async def read(self) -> None:
        """Note when a response was interrupted. Ask again for a response that ends by itself."""
        async for text in self.websocket:
            message = json.loads(text)
            if message.get("status") == "interrupted":
                self.told_s.append(time.monotonic())
            elif message.get("finish_reason") in ("stop", "length"):
                await self.ask()

    async def ask(self) -> None:
        """Ask for a response without a history."""
        await self.websocket.send('{"type": "control", "control_type": "clear_history"}')
        await self.websocket.send('{"type": "text_input", "text": "hello"}')

    async def flood(self) -> None:
        """Ask for more than the connection can hold, and read none of it."""
        for _ in range(FLOOD):
            await self.websocket.send('{"type": "control", "control_type": "get_stats"}')

    async def speak(self) -> float:
        """Send a sentence at a microphone's speed; returns when its sound was sent."""
        audio, onset = utterance()
        started_s, spoken_s = time.monotonic(), 0.0
        for number in range(len(audio) // FRAME_BYTES):
            # A frame is sent when it has been spoken.
            due_s = started_s + (number + 1) * FRAME_SAMPLES / RATE
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await self.websocket.send(audio[number * FRAME_BYTES : (number + 1) * FRAME_BYTES])
            if number == onset:
                spoken_s = time.monotonic() - FRAME_SAMPLES / RATE
        return spoken_s


class Watch:
    """Detects within milliseconds that a sequence has left the batch."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = f"{url}/metrics"

    async def figures(self) -> dict[str, float]:
        """The worker's metrics."""
        async with self._http.get(self._url) as response:
            return samples_of(await response.text())

    async def until(self, name: str, least: float, timeout_s: float = TIMEOUT_S) -> float:
        """The time at which a metric has reached a value, within the time between two looks."""
        async with asyncio.timeout(timeout_s):
            while (await self.figures()).get(name, 0.0) < least:
                await asyncio.sleep(0.002)
        return time.monotonic()


@dataclass
class Result:
    """The measurements of one kind of client, in ms."""

    gone_ms: list[float]
    told_ms: list[float]
    engine_ms: list[float]
    cut_off: int


class Stage:
    """Sessions on one worker."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def talker(self, *, reads: bool) -> AsyncIterator[Talker]:
        """A session that is being answered. A client that does not read gets small buffers."""
        session_id = await new_session(self._url, **CONFIG)
        address = urlsplit(self._url)
        line = socket.socket()
        if not reads:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect((address.hostname, address.port))
        async with websockets.connect(
            address_of(self._url, "audio", session_id),
            sock=line,
            max_queue=16,
            ping_interval=None,
            close_timeout=0.1,
        ) as opened:
            one = Talker(opened)
            reading = asyncio.create_task(one.read()) if reads else None
            await one.ask()
            if not reads:
                await one.flood()
            yield one
            if reading is not None:
                reading.cancel()
            await delete(self._url, session_id)


async def interrupt(url: str, sessions: int, rounds: int, *, reads: bool) -> Result:
    """Speak over the response, each time in a new session, while others are answered."""
    result = Result([], [], [], 0)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        watch, stage = Watch(http, url), Stage(url)
        cut_off_before = (await watch.figures()).get(CUT_OFF, 0.0)
        for _ in range(sessions - 1):
            await stack.enter_async_context(stage.talker(reads=True))
        while len(result.gone_ms) < rounds:
            async with stage.talker(reads=reads) as one:
                await watch.until("voxtral_generations_running", sessions)
                await _speak_over(watch, one, result, reads=reads)
            # The end of a session cancels its last response too. Wait until that is done.
            await asyncio.sleep(SETTLED_S)
        result.cut_off = int((await watch.figures())[CUT_OFF] - cut_off_before)
    return result


async def _speak_over(watch: Watch, one: Talker, result: Result, *, reads: bool) -> None:
    before = await watch.figures()
    speaking = asyncio.create_task(one.speak())
    try:
        gone_s = await watch.until(GONE, before.get(GONE, 0.0) + 1, PATIENCE_S)
    except TimeoutError:
        # The response had ended by itself.
        await speaking
        return
    after = await watch.figures()
    spoken_s = await speaking
    result.gone_ms.append(1000 * (gone_s - spoken_s))
    result.engine_ms.append(1000 * (after[TOOK] - before.get(TOOK, 0.0)))
    if reads:
        async with asyncio.timeout(TIMEOUT_S):
            while not one.told_s:
                await asyncio.sleep(0.01)
        result.told_ms.append(1000 * (one.told_s[0] - spoken_s))


def run(sessions: tuple[int, ...] = (1, 8), rounds: int = 20) -> list[Result]:
    """Print the table."""
    print("\n| sessions | the client | speech start → told, p50 / p95 ms", end=" ")
    print("| speech start → sequence gone, p50 / p95 ms | of it cancel → gone, p50 / p95 ms |")
    print("| --- | --- | --- | --- | --- |")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), SHAPE, torch.device("cpu"))
        for count in sessions:
            for reads in (True, False):
                # A new worker for each, so that its figures do not include the rest of another.
                settings = {"MODEL_ID": folder, "DTYPE": "float32", "METRICS_PUBLIC": "true"}
                with running_worker(**settings) as url:
                    result = asyncio.run(interrupt(url, count, rounds, reads=reads))
                results.append(result)
                told = " / ".join(_both(result.told_ms)) if reads else "–"
                print(
                    f"| {count} | {'reads' if reads else 'has stopped reading'} | {told} |", end=" "
                )
                print(f"{' / '.join(_both(result.gone_ms))} |", end=" ")
                print(f"{' / '.join(_both(result.engine_ms))} |", flush=True)
    return results


def _both(values: list[float]) -> list[str]:
    return [f"{percentile(values, percent):.0f}" for percent in (50, 95)]
