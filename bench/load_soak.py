"""The same load for a long time: do memory, file descriptors or the event loop's lag grow?

It takes three minutes; `SOAK_MINUTES=30 make bench-load` sets another time.
"""

import asyncio
import os
import random
import time
from dataclasses import dataclass, field

import numpy as np

from bench.load_speakers import hold, lag_p95_ms, plan, scrape
from tests.support.workers import running_worker

MINUTES = float(os.environ.get("SOAK_MINUTES", "3"))
USERS = 4
SHARE = 0.3
# A session lasts this long, and is followed by a new one.
VISIT_S = 15.0
LOOK_S = 5.0
# Three thirds of at least two.
LEAST_LOOKS = 6
SETTINGS = {"MAX_SESSIONS": "100", "METRICS_PUBLIC": "true"}


@dataclass
class Soak:
    """The worker's figures over time, and what its users were answered."""

    at_s: list[float] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    turns: int = 0
    answered: int = 0

    def series(self, metric: str) -> list[float]:
        """One figure over time."""
        return [sample[metric] for sample in self.samples]

    def growth(self, metric: str) -> float:
        """Slope of a straight line through the later two thirds, per hour."""
        start = len(self.samples) // 3
        hours = np.array(self.at_s[start:]) / 3600
        return float(np.polyfit(hours, np.array(self.series(metric)[start:]), 1)[0])

    def lag_p95_ms(self, *, is_late: bool) -> float:
        """The 95th percentile of the event loop's lag, in the first or the last third."""
        third = len(self.samples) // 3
        first, last = (-third - 1, -1) if is_late else (0, third)
        return lag_p95_ms(self.samples[first], self.samples[last])


async def _visit(url: str, soak: Soak, seed: int, until_s: float, *, is_paced: bool) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until_s:
        talk = plan(min(VISIT_S, max(4.0, until_s - time.monotonic())), SHARE, rng)
        await hold(url, talk, is_paced=is_paced)
        soak.turns += len(talk.words)
        soak.answered += len(talk.responses)


async def _look(url: str, soak: Soak, until_s: float, every_s: float) -> None:
    began_s = time.monotonic()
    while time.monotonic() < until_s or len(soak.samples) < LEAST_LOOKS:
        soak.samples.append(await asyncio.to_thread(scrape, url))
        soak.at_s.append(time.monotonic() - began_s)
        await asyncio.sleep(every_s)


async def steep(
    url: str, seconds: float, every_s: float = LOOK_S, *, is_paced: bool = True
) -> Soak:
    """Users come and go for some time. Users that are not paced send their audio at once."""
    soak, until_s = Soak(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for seed in range(USERS):
            group.create_task(_visit(url, soak, seed, until_s, is_paced=is_paced))
        group.create_task(_look(url, soak, until_s, every_s))
    return soak


def run(minutes: float = MINUTES) -> Soak:
    """Print the table."""
    with running_worker(**SETTINGS) as url:
        soak = asyncio.run(steep(url, 60 * minutes))
    mib = [each / 2**20 for each in soak.series("process_resident_memory_bytes")]
    third = len(mib) // 3
    slope = soak.growth("process_resident_memory_bytes") / 2**20
    fds, tasks = (soak.series(m) for m in ("process_open_fds", "voxtral_event_loop_tasks"))
    print(f"\n{minutes:g} minutes, {USERS} users, sessions of {VISIT_S:g} s:", end=" ")
    print(f"{soak.turns} turns, {soak.answered} answered\n")
    print("| | after a third | at the end | highest |\n| --- | --- | --- | --- |")
    for name, values in (("memory, MiB", mib), ("file descriptors", fds), ("tasks", tasks)):
        print(f"| {name} | {values[third]:.0f} | {values[-1]:.0f} | {max(values):.0f} |")
    early, late = soak.lag_p95_ms(is_late=False), soak.lag_p95_ms(is_late=True)
    print(f"| event loop's lag p95, ms (bucket) | {early:g} | {late:g} | – |")
    print(f"\nMemory over the later two thirds: {slope:+.1f} MiB an hour", flush=True)
    return soak
