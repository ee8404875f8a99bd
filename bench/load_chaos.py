"""Many failures at once: are the remaining clients answered, and are all resources released?"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import websockets

from bench.load_cuts import CHUNK_BYTES, converse
from bench.load_fuzz import TIMEOUT_S, until_at_rest
from bench.load_speakers import LEAST_GAP_FRAMES, answers_alone
from tests.support.redis_server import RedisServer
from tests.support.sounds import clips, silence
from tests.support.talker import address_of, delete, new_session
from tests.support.workers import RunningWorker, running_process
from voxtral_worker.client import Failure, Response, VoxtralClient, VoxtralError
from voxtral_worker.client.line import FINAL_CODES

SECONDS = 300.0
PATIENCE_S = 120.0
GREETING = "hello"
FIGURES = {
    "sessions": "voxtral_sessions_active",
    "sockets": "websocket_connections_active",
    "tasks": "voxtral_event_loop_tasks",
    "file descriptors": "process_open_fds",
    "blocks of KV cache in use": "blocks",
}
SETTINGS = {
    "MAX_SESSIONS": "200",
    "RESPONSE_CACHE_SIZE": "0",
    "METRICS_PUBLIC": "true",
    "RATE_LIMIT_ENABLED": "true",
    "RATE_LIMIT_CONNECTIONS_PER_MINUTE": "1000000",
    "RATE_LIMIT_SESSIONS_PER_MINUTE": "1000000",
    "RATE_LIMIT_AUDIO_BYTES_PER_SECOND": "1000000000",
    "RATE_LIMIT_TEXT_PER_MINUTE": "1000000",
}


@dataclass
class Chaos:
    """The actions and their results; `wrong` must stay empty."""

    url: str
    alone: dict[str, str]
    until_s: float
    # Whether enough has happened. A busy machine is slow, so the run may take longer for it.
    has_enough: Callable[["Chaos"], bool] = lambda _: True
    done: Counter[str] = field(default_factory=Counter)
    right: int = 0
    failed_by_fault: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether to continue: the time is not over, or not enough has happened."""
        now_s = time.monotonic()
        return now_s < self.until_s or (
            now_s < self.until_s + PATIENCE_S and not self.has_enough(self)
        )

    def judge(self, who: str, said: list[str], answers: list[dict[str, Any]]) -> None:
        """Check that each sentence got its own words, or the error of an injected fault."""
        if len(answers) != len(said):
            self.wrong.append(f"{who}: {len(said)} sentences, {len(answers)} answers")
        for words, answer in zip(said, answers, strict=False):
            if answer.get("code") == "PROCESSING_ERROR":
                self.failed_by_fault += 1
            elif answer.get("text") == self.alone[words]:
                self.right += 1
            else:
                self.wrong.append(f"{who}: {words!r} was answered {answer}")


def speech(words: list[str]) -> bytes:
    """Sentences one after the other."""
    known = clips()
    quiet = silence(LEAST_GAP_FRAMES + 5)
    return silence(30) + b"".join(known[each] + quiet for each in words)


async def is_cut(chaos: Chaos, rng: random.Random) -> None:
    """A client whose connection is cut again and again, and that resumes each time."""
    words = [rng.choice(list(clips())) for _ in range(2)]
    audio = speech(words)
    cuts = sorted(2 * rng.randrange(len(audio) // 2) for _ in range(rng.randint(0, 3)))
    heard = await converse(chaos.url, audio, len(words), cuts, rng)
    chaos.done["sockets cut"] += heard.cuts
    if heard.lost or heard.doubled or heard.audio_bytes_astray:
        chaos.wrong.append(f"cut: lost {heard.lost}, doubled {heard.doubled}")
    chaos.judge("cut", words, heard.answers())


async def writes(chaos: Chaos, rng: random.Random) -> None:
    """A client that sends the same text again and again, each time without a history."""
    async with VoxtralClient(chaos.url, temperature=0, max_length=16) as client:
        for _ in range(rng.randint(1, 4)):
            chaos.judge("writes", [GREETING], [await _greet(client)])


async def _greet(client: VoxtralClient) -> dict[str, Any]:
    await client.clear_history()
    await client.send_text(GREETING)
    async with asyncio.timeout(TIMEOUT_S), aclosing(client.events()) as events:
        async for event in events:
            if isinstance(event, Response | Failure):
                return event.message
    raise RuntimeError("the session has ended")


async def stops_reading(chaos: Chaos, rng: random.Random) -> None:
    """A client that sends much, reads none of the answers, and leaves."""
    session_id = await new_session(chaos.url, mode="transcribe")
    path = address_of(chaos.url, "audio", session_id)
    async with websockets.connect(path, max_queue=1, close_timeout=0.1) as socket:
        audio = speech([rng.choice(list(clips()))])
        for start in range(0, len(audio), CHUNK_BYTES):
            await socket.send(audio[start : start + CHUNK_BYTES])
            for _ in range(10):
                await socket.send('{"type": "control", "control_type": "get_stats"}')
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        socket.transport.abort()
    chaos.done["clients that stopped reading"] += 1
    await delete(chaos.url, session_id)


async def is_deleted(chaos: Chaos, rng: random.Random) -> None:
    """A client whose session is deleted in the middle of a turn."""
    async with VoxtralClient(chaos.url, mode="transcribe") as client:
        audio = speech([rng.choice(list(clips()))])
        for start in range(0, len(audio), CHUNK_BYTES):
            await client.send_audio(audio[start : start + CHUNK_BYTES])
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        await delete(chaos.url, str(client.session_id))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                async for _ in client.events():
                    pass
            chaos.wrong.append("a deleted session's events ended without a reason")
        except VoxtralError as error:
            # What the client makes of the close code 1000.
            if str(error) != FINAL_CODES[1000]:
                chaos.wrong.append(f"a deleted session ended with {error}")
    chaos.done["sessions deleted in a turn"] += 1


USERS: tuple[Callable[[Chaos, random.Random], Coroutine[Any, Any, None]], ...] = (
    is_cut,
    is_cut,
    writes,
    writes,
    stops_reading,
    is_deleted,
)


async def come_again(chaos: Chaos, number: int) -> None:
    """One user after the other, of one kind."""
    rng = random.Random(number)
    while chaos.goes_on:
        await USERS[number](chaos, rng)


async def break_the_engine(chaos: Chaos, worker: RunningWorker) -> None:
    """Make a layer of the model fail from time to time."""
    rng = random.Random(99)
    while chaos.goes_on:
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        worker.break_something()
        chaos.done["faults injected"] += 1


async def stop_redis(chaos: Chaos, redis: RedisServer) -> None:
    """Stop Redis for some seconds from time to time."""
    rng = random.Random(98)
    while chaos.goes_on:
        await asyncio.sleep(rng.uniform(2.0, 10.0))
        await asyncio.to_thread(redis.stop)
        chaos.done["Redis stopped"] += 1
        await asyncio.sleep(rng.uniform(1.0, 4.0))
        await asyncio.to_thread(redis.start)


async def rage(
    worker: RunningWorker,
    redis: RedisServer | None,
    seconds: float,
    alone: dict[str, str],
    has_enough: Callable[[Chaos], bool],
) -> Chaos:
    """Run all clients and failures at once for some seconds; `alone`: the right answers."""
    chaos = Chaos(worker.url, alone, time.monotonic() + seconds, has_enough)
    async with asyncio.TaskGroup() as group:
        for number in range(len(USERS)):
            group.create_task(come_again(chaos, number))
        group.create_task(break_the_engine(chaos, worker))
        if redis is not None:
            group.create_task(stop_redis(chaos, redis))
    return chaos


async def compare(
    worker: RunningWorker,
    redis: RedisServer | None,
    seconds: float,
    has_enough: Callable[[Chaos], bool] = lambda _: True,
) -> tuple[Chaos, dict[str, tuple[float, float]]]:
    """The chaos, and the worker's figures at rest before and after it."""
    alone = await answers_alone(worker.url)
    async with VoxtralClient(worker.url, temperature=0, max_length=16) as client:
        alone[GREETING] = (await _greet(client))["text"]
    # A short run first: pools and caches that it fills are not a leak.
    await rage(worker, None, min(5.0, seconds), alone, lambda chaos: chaos.right > 0)
    before = await until_at_rest(worker.url)
    chaos = await rage(worker, redis, seconds, alone, has_enough)
    after = await until_at_rest(worker.url)
    return chaos, {name: (_figure(before, m), _figure(after, m)) for name, m in FIGURES.items()}


def _figure(samples: dict[str, float], metric: str) -> float:
    if metric != "blocks":
        return samples[metric]
    total, free = (samples[f'voxtral_kv_blocks{{state="{s}"}}'] for s in ("total", "free"))
    return total - free


@contextmanager
def _redis() -> Iterator[RedisServer | None]:
    if not RedisServer.is_installed():
        print("\nRedis is not part of it: apt-get install redis-server")
        yield None
        return
    redis = RedisServer()
    redis.start()
    try:
        yield redis
    finally:
        redis.stop()


def run(seconds: float = SECONDS) -> tuple[Chaos, dict[str, tuple[float, float]]]:
    """Print the tables."""
    with _redis() as redis:
        store = {} if redis is None else {"RATE_LIMIT_STORE": redis.url}
        with running_process(SETTINGS | store, is_faulty=True) as worker:
            chaos, figures = asyncio.run(compare(worker, redis, seconds))
    print("\n| " + " | ".join(chaos.done) + " | right answers | failed by a fault | wrong |")
    print("| --- " * (len(chaos.done) + 3) + "|")
    counts = [*chaos.done.values(), chaos.right, chaos.failed_by_fault, len(chaos.wrong)]
    print("| " + " | ".join(map(str, counts)) + " |")
    print("\n| at rest | before | after |\n| --- | --- | --- |")
    for name, (before, after) in figures.items():
        print(f"| {name} | {before:.0f} | {after:.0f} |")
    print(*chaos.wrong[:20], sep="\n", flush=True)
    return chaos, figures
