"""Can one caller stop the others? People talk while an attacker tries one attack after the other.

One honest session speaks, and one sends a text every second; both continue after each answer.
`/ping` is called four times a second. The worker is a process with a memory limit, and the attacker
is a process too.
"""

import asyncio
import contextlib
import itertools
import os
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import aiohttp
import psutil

from bench.load_speakers import CHUNK_FRAMES, CHUNK_S, LEAST_GAP_FRAMES, percentile
from tests.support.attacks_by_use import ATTACKS, Attack, carry_out
from tests.support.job_api import FakeJobApi
from tests.support.sounds import FRAME_SAMPLES, clips, silence
from tests.support.workers import RunningWorker, running_process
from voxtral_worker.client import Failure, Response, Status, VoxtralClient
from voxtral_worker.client.options import Options
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY

HANDLER = REPOSITORY / "handler.py"
SECONDS = 10.0
QUIET_SECONDS = 30.0
# Limit for all turns; on a machine that is busy with the attack itself, three times the time
# without an attack.
TURN_LIMIT_S = 1.0
QUIET_TIMES = 3.0
GROWTH_LIMIT_MIB = 500
# Memory that the worker may use in addition to what it has when it is ready, like a container's
# limit.
SPARE_MEMORY_BYTES = 1 << 30
PATIENCE_S = 60.0
PING_S = 0.25
LOOK_S = 0.1
WRITES_EVERY_S = 1.0
HONEST_KEY, STRANGERS_KEY = "honest-key-of-the-guard", "strangers-key-of-the-guard"
SETTINGS = {
    "RATE_LIMIT_ENABLED": "true",
    "RESPONSE_CACHE_SIZE": "0",
    "API_KEYS": f"{HONEST_KEY},{STRANGERS_KEY}",
    "MODEL_ID": str(EMBEDDED_MODEL),
}
CONFIG: Options = {"mode": "transcribe", "temperature": 0, "barge_in": False}
SENTENCES = ("what time is it", "close the kitchen window", "stop the music")


@dataclass
class Turn:
    """When a sentence ended, and when and how it was answered."""

    words: str
    said_s: float
    answered_s: float = float("inf")
    text: str = ""

    @property
    def took_s(self) -> float:
        """From the end of the sentence to its answer."""
        return self.answered_s - self.said_s


@dataclass
class Person:
    """One honest session; its next sentence comes when the last one is answered."""

    is_spoken: bool
    turns: list[Turn] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def talk(self, url: str) -> None:
        """Talk until cancelled. Raises if the session is closed."""
        async with (
            VoxtralClient(url, token=HONEST_KEY, **CONFIG) as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._listen(client))
            await (self._speak(client) if self.is_spoken else self._write(client))

    async def _speak(self, client: VoxtralClient) -> None:
        known, quiet = clips(), silence(LEAST_GAP_FRAMES)
        step = CHUNK_FRAMES * FRAME_SAMPLES * 2
        next_s = time.monotonic()

        async def stream(audio: bytes) -> None:
            nonlocal next_s
            for start in range(0, len(audio), step):
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
                await client.send_audio(audio[start : start + step])
                next_s += CHUNK_S

        for words in itertools.cycle(SENTENCES):
            await stream(known[words])
            turn = Turn(words, time.monotonic())
            self.turns.append(turn)
            # A microphone stays open. This silence keeps one turn from becoming part of the next.
            await stream(quiet)
            while turn.answered_s == float("inf"):
                await stream(quiet[:step])

    async def _write(self, client: VoxtralClient) -> None:
        for words in itertools.cycle(SENTENCES):
            turn = Turn(words, time.monotonic())
            self.turns.append(turn)
            await client.send_text(words)
            while turn.answered_s == float("inf"):
                await asyncio.sleep(LOOK_S / 10)
            await asyncio.sleep(max(0.0, turn.said_s + WRITES_EVERY_S - time.monotonic()))

    async def _listen(self, client: VoxtralClient) -> None:
        waiting = resumed = 0
        async for event in client.events():
            match event:
                case Response(text=text):
                    turn = self.turns[waiting]
                    turn.answered_s, turn.text = time.monotonic(), text
                    waiting += 1
                case Failure(code=code):
                    self.errors.append(code)
                case Status(status="resumed"):
                    resumed += 1
                    # The first one only says that the session is open.
                    if resumed > 1:
                        raise ConnectionError("an honest session was cut off")
        raise ConnectionError("an honest session was ended")


@dataclass
class Pings:
    """The times until `/ping` was answered, over a new connection each time."""

    took_s: list[float] = field(default_factory=list)
    failed: int = 0

    async def ask(self, url: str) -> None:
        """Call `/ping` until cancelled."""
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(5.0)
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as http:
            while True:
                began_s = time.monotonic()
                try:
                    async with http.get("/ping") as response:
                        self.failed += response.status != 200
                except (aiohttp.ClientError, TimeoutError):
                    self.failed += 1
                self.took_s.append(time.monotonic() - began_s)
                await asyncio.sleep(PING_S)


@dataclass
class Memory:
    """The highest memory of the worker and its children, of many looks."""

    worker: psutil.Process
    highest: int = 0

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            self.highest = max(self.highest, self.now())
            await asyncio.sleep(LOOK_S)

    def now(self) -> int:
        """Bytes that are resident."""
        held = 0
        for process in [self.worker, *self.worker.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held


@dataclass(frozen=True)
class Row:
    """What people noticed of one attack. `spoken` and `written`: the turns that began in it."""

    name: str
    answers: Counter[str]
    spoken: list[Turn]
    written: list[Turn]
    errors: list[str]
    ping_slowest_s: float
    pings_failed: int
    growth_mib: float

    def faults(self, texts: dict[str, str]) -> list[str]:
        """Faults that count at any speed; `texts`: the right answer to each sentence."""
        turns = self.spoken + self.written
        found = [f"error {code}" for code in self.errors]
        unanswered = sum(turn.answered_s == float("inf") for turn in turns)
        wrong = sum(turn.text != texts.get(turn.words, turn.text) for turn in self.spoken)
        found += [f"{unanswered} turns unanswered"] if unanswered or not turns else []
        found += [f"{wrong} turns with other words"] if wrong else []
        found += [f"{self.pings_failed} pings failed"] if self.pings_failed else []
        return found

    def slow(self, quiet: "Row") -> list[str]:
        """What exceeded a limit of time or memory; `quiet`: the row before any attack."""
        found = []
        for name in ("spoken", "written"):
            limit_s = max(TURN_LIMIT_S, QUIET_TIMES * p95_s(getattr(quiet, name)))
            if p95_s(getattr(self, name)) > limit_s:
                found.append(f"{name} turns beyond {limit_s:.1f} s")
        if self.growth_mib > GROWTH_LIMIT_MIB:
            found.append(f"memory beyond {GROWTH_LIMIT_MIB} MiB")
        return found


def p95_s(turns: list[Turn]) -> float:
    """The 95th percentile; of a few turns, the longest."""
    return percentile([turn.took_s for turn in turns], 95) if turns else 0.0


class Guard:
    """People who talk, and what they notice. Owned by one event loop."""

    def __init__(self, worker: RunningWorker, api: FakeJobApi, pool: ProcessPoolExecutor) -> None:
        self._worker = worker
        self._api = api
        self._pool = pool
        self._people = (Person(is_spoken=True), Person(is_spoken=False))
        self._pings = Pings()
        self._memory = Memory(psutil.Process(worker.process.pid))
        self._began = 0
        self.texts: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """People talk for the length of the `with` block. Raises if one of them cannot continue."""
        async with asyncio.TaskGroup() as group:
            work = [
                self._pings.ask(self._worker.url),
                self._memory.watch(),
                *(person.talk(self._worker.url) for person in self._people),
            ]
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()

    async def be_quiet(self, seconds: float) -> Row:
        """Measure without an attack, as the yardstick for the others."""
        self._began = self._memory.now()
        row = await self._during("none", seconds, None)
        self.texts = {turn.words: turn.text for turn in row.spoken}
        self._began = self._memory.highest
        return row

    async def suffer(self, attack: Attack, seconds: float) -> Row:
        """Measure what people notice of an attack that lasts some seconds."""
        return await self._during(attack.name, seconds, attack)

    async def _during(self, name: str, seconds: float, attack: Attack | None) -> Row:
        began_s, pings = time.monotonic(), len(self._pings.took_s)
        failed, errors = self._pings.failed, [len(one.errors) for one in self._people]
        self._memory.highest = 0
        answers = await self._carry_out(attack, seconds)
        patient_until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < patient_until_s:
            spoken, written = (
                [turn for turn in person.turns if turn.said_s >= began_s] for person in self._people
            )
            are_over = all(turn.answered_s < float("inf") for turn in spoken + written)
            if spoken and written and are_over:
                break
            await asyncio.sleep(LOOK_S)
        told = zip(self._people, errors, strict=True)
        return Row(
            name,
            answers,
            spoken,
            written,
            [code for person, before in told for code in person.errors[before:]],
            max(self._pings.took_s[pings:], default=0.0),
            self._pings.failed - failed,
            (max(self._memory.highest, self._memory.now()) - self._began) / (1 << 20),
        )

    async def _carry_out(self, attack: Attack | None, seconds: float) -> Counter[str]:
        if attack is None:
            await asyncio.sleep(seconds)
            return Counter()
        loop = asyncio.get_running_loop()
        if attack.carry is None:
            self._api.give_without_end(attack.jobs)
            await asyncio.sleep(seconds)
            self._api.give_without_end(())
            return await loop.run_in_executor(None, self._api.outcomes, PATIENCE_S)
        words = (attack.name, self._worker.url, STRANGERS_KEY, seconds)
        return await loop.run_in_executor(self._pool, carry_out, *words)


@contextmanager
def besieged_worker(log_path: Path | None = None) -> Iterator[tuple[RunningWorker, FakeJobApi]]:
    """A queue worker with the embedded model, default limits, two keys and little memory."""
    with (
        contextlib.closing(FakeJobApi()) as api,
        running_process(SETTINGS | api.environment, log_path, script=HANDLER) as worker,
    ):
        limit_memory(worker.process.pid, SPARE_MEMORY_BYTES)
        yield worker, api


@contextmanager
def attackers() -> Iterator[ProcessPoolExecutor]:
    """The attacker's process, with a low priority: it should not just take the processor."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=os.nice, initargs=(5,)) as pool:
        yield pool


def limit_memory(pid: int, spare_bytes: int) -> None:
    """Let a process allocate so much more memory than it has now; then allocations fail."""
    (has,) = [
        int(line.split()[1]) << 10
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmData:")
    ]
    resource.prlimit(pid, resource.RLIMIT_DATA, (has + spare_bytes, has + spare_bytes))


def told(answers: Counter[str]) -> str:
    """The most frequent answers in a few words."""
    return ", ".join(f"{kind} × {count:,}" for kind, count in answers.most_common(4)) or "–"


async def besiege(
    guard: Guard, attacks: Sequence[Attack], seconds: float, quiet_seconds: float
) -> list[Row]:
    """Run every attack, and print each one's row when it is over."""
    rows: list[Row] = []
    print("\n| attack | answers | spoken turns: p95 s | texts: p95 s", end=" ")
    print("| slowest /ping ms | memory MiB | held |")
    print(f"| {'--- | ' * 7}", flush=True)
    async with guard.watching():
        for attack in [None, *attacks]:
            if attack is None:
                row = await guard.be_quiet(quiet_seconds)
            else:
                row = await guard.suffer(attack, seconds)
            rows.append(row)
            not_held = row.faults(guard.texts) + row.slow(rows[0])
            if attack is not None and not attack.answers & row.answers.keys():
                not_held.append("not refused as told")
            print(f"| {row.name} | {told(row.answers)}", end=" ")
            print(f"| {len(row.spoken)}: {p95_s(row.spoken):.2f}", end=" ")
            print(f"| {len(row.written)}: {p95_s(row.written):.2f}", end=" ")
            print(f"| {1000 * row.ping_slowest_s:.0f} | {row.growth_mib:+.0f}", end=" ")
            print(f"| {'; '.join(not_held) or 'yes'} |", flush=True)
    return rows


def run(seconds: float = SECONDS, quiet_seconds: float = QUIET_SECONDS) -> list[Row]:
    """Print the table; returns its rows. `GUARD_ATTACKS`: a part of the names to run."""
    chosen = os.environ.get("GUARD_ATTACKS", "")
    attacks = [attack for attack in ATTACKS if chosen in attack.name]
    with attackers() as pool, besieged_worker() as (worker, api):
        guard = Guard(worker, api, pool)
        return asyncio.run(besiege(guard, attacks, seconds, quiet_seconds))
