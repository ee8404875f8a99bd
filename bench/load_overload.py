"""Twice as many users as the worker has capacity for: do those who are admitted notice?"""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bench.load_speakers import CONFIG, LEAST_GAP_FRAMES, Talk, converse, percentile, plan, scrape
from tests.support.sounds import clips, silence
from tests.support.workers import running_worker
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.retry import Retry

# Longer than a single turn takes on a CPU, so that the goal can be met.
GOAL_MS = 600
SHARE = 0.3
SECONDS = 120.0
# All users come within the first seconds, as after a mail to all customers.
ARRIVAL_S = 10.0
SETTINGS = {"METRICS_PUBLIC": "true", "RESPONSE_CACHE_SIZE": "0", "MAX_SESSIONS": "1000"}


@dataclass
class Crowd:
    """The results of users who try until they are let in."""

    talks: list[Talk] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    other_refusals: list[str] = field(default_factory=list)

    def first_delta_ms(self) -> list[float]:
        """Decision → first delta of every turn of those who were admitted."""
        return [r["metrics"]["first_token_ms"] for talk in self.talks for r in talk.responses]

    def unanswered(self) -> int:
        """Turns of the admitted that got no answer."""
        return sum(max(0, len(talk.words) - len(talk.responses)) for talk in self.talks)


def newcomer(url: str) -> VoxtralClient:
    """A client that does not try again by itself: what it is refused is measured."""
    return VoxtralClient(url, retry=Retry(most=0), **CONFIG)


async def visit(crowd: Crowd, url: str, seed: int, until_s: float) -> None:
    """Try until admitted or the time is over, then speak until the end."""
    rng = random.Random(seed)
    await asyncio.sleep(rng.uniform(0, min(ARRIVAL_S, (until_s - time.monotonic()) / 4)))
    while (left_s := until_s - time.monotonic()) > 0:
        asked_s = time.monotonic()
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(newcomer(url))
            except VoxtralError as error:
                if error.code != "AT_CAPACITY" or error.retry_after_s is None:
                    crowd.other_refusals.append(str(error))
                    return
                crowd.refused_ms.append(1000 * (time.monotonic() - asked_s))
                await asyncio.sleep(error.retry_after_s)
                continue
            talk = plan(left_s, SHARE, rng)
            crowd.talks.append(talk)
            await converse(client, talk)


async def besiege(url: str, users: int, seconds: float) -> Crowd:
    """So many users for so long."""
    crowd, until_s = Crowd(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for seed in range(users):
            group.create_task(visit(crowd, url, seed, until_s))
    return crowd


async def recovery_s(url: str, goal_ms: float = GOAL_MS) -> float:
    """Time until a new user is let in and answered within the goal."""
    began_s = time.monotonic()
    words, sentence = next(iter(clips().items()))
    while True:
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(newcomer(url))
            except VoxtralError:
                await asyncio.sleep(0.2)
                continue
            admitted_s = time.monotonic() - began_s
            talk = Talk(silence(30) + sentence + silence(LEAST_GAP_FRAMES), [words])
            await converse(client, talk)
        if talk.responses[0]["metrics"]["first_token_ms"] <= goal_ms:
            return admitted_s


@dataclass(frozen=True)
class Siege:
    """One row of the table."""

    users: int
    admitted: int
    turns: int
    unanswered: int
    p95_ms: float
    refusals: int
    refusal_p99_ms: float
    others: int


def siege(url: str, users: int, seconds: float) -> Siege:
    """Measure one crowd."""
    crowd = asyncio.run(besiege(url, users, seconds))
    return Siege(
        users,
        len(crowd.talks),
        len(crowd.first_delta_ms()),
        crowd.unanswered(),
        percentile(crowd.first_delta_ms(), 95),
        len(crowd.refused_ms),
        percentile(crowd.refused_ms, 99) if crowd.refused_ms else 0.0,
        len(crowd.other_refusals),
    )


def run(seconds: float = SECONDS) -> tuple[list[Siege], float]:
    """Print the table; returns its rows, and the time of recovery."""
    with running_worker(**SETTINGS, LATENCY_GOAL_MS=str(GOAL_MS)) as url:
        capacity = int(scrape(url)["voxtral_capacity_sessions"])
        print(f"\nGoal {GOAL_MS} ms at p95; capacity as the worker measured it: {capacity}\n")
        print("| users | admitted | turns | unanswered | decision → first delta p95 ms", end=" ")
        print(f"| refusals | refusal p99 ms | other answers |\n| {'--- | ' * 8}")
        rows = []
        for users in (capacity, 2 * capacity):
            row = siege(url, users, seconds)
            rows.append(row)
            print(f"| {row.users} | {row.admitted} | {row.turns} | {row.unanswered}", end=" ")
            print(f"| {row.p95_ms:.0f} | {row.refusals} | {row.refusal_p99_ms:.0f}", end=" ")
            print(f"| {row.others} |", flush=True)
        took_s = asyncio.run(recovery_s(url))
    print(
        f"\nAfter the siege somebody new is let in and answered in time after {took_s:.1f} s",
        flush=True,
    )
    return rows, took_s
