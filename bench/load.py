"""`make bench-load`: the worker under users who speak in real time, as tables."""

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import dataclass

from bench import (
    load_bargein,
    load_blocking,
    load_chaos,
    load_cuts,
    load_dictation,
    load_fuzz,
    load_guard,
    load_hearing,
    load_overload,
    load_soak,
    load_sounds,
)
from bench.load_speakers import (
    Tally,
    answers_alone,
    answers_in_real_time,
    crowd,
    discarded_share,
    lag_p95_ms,
    scrape,
    tally,
)
from tests.support.sounds import clips
from tests.support.workers import running_worker
from voxtral_worker.engine.layout import WINDOW_TAILS

SETTINGS = {"MAX_SESSIONS": "400", "RESPONSE_CACHE_SIZE": "0", "METRICS_PUBLIC": "true"}
LIMIT_MS = 250.0
TRIAL_S = 60.0
# All sessions of a trial have begun after so long.
ARRIVAL_S = 10.0
MOST_SESSIONS = 256
SHARES = (0.3, 0.6, 1.0)
NAMES = (
    "hearing",
    "sounds",
    "cuts",
    "bargein",
    "dictation",
    "realtime",
    "speculation",
    "capacity",
    "overload",
    "fuzz",
    "chaos",
    "soak",
    "guard",
    "blocking",
)


async def realtime(url: str, sessions: int = 50, seconds: float = 120, share: float = 0.3) -> Tally:
    """Many sessions at once for a while: is every turn answered once with its own words?"""
    alone = await answers_alone(url)
    before = scrape(url)
    result = tally(await crowd(url, sessions, seconds, share), alone)
    after = scrape(url)
    print(f"\n{sessions} sessions, {share:.0%} speech, {seconds:.0f} s\n")
    print("| turns | answered | answers too many | errors | same words as alone", end=" ")
    print("| decision → first delta p50 / p95 ms | loop lag p95 ms (bucket) | speculative |")
    print(f"| {'--- | ' * 8}")
    print(f"| {result.turns} | {result.answered} | {result.extra} | {result.errors}", end=" ")
    print(f"| {result.right} |", end=" ")
    print(f"{result.first_p50:.0f} / {result.first_p95:.0f} |", end=" ")
    print(f"{lag_p95_ms(before, after):.1f} | {result.speculative} |", flush=True)
    return result


def speculation(seconds: float = 20.0) -> None:
    """End of speech → first delta, with speculation and without."""
    print("\n| sessions | speculation | end of speech → first delta p50 / p95 ms", end=" ")
    print(
        "| decision → first delta p50 / p95 ms | tokens discarded |\n"
        "| --- | --- | --- | --- | --- |"
    )
    texts = []
    for flag in ("true", "false"):
        with running_worker(**SETTINGS, SPECULATION=flag) as url:
            responses = asyncio.run(answers_in_real_time(url, clips()))
            texts.append([response["text"] for response in responses])
            for sessions in (1, 10, 25):
                before = scrape(url)
                result = tally(
                    asyncio.run(crowd(url, sessions, seconds, 0.3)), dict.fromkeys(clips(), "")
                )
                wasted = discarded_share(before, scrape(url))
                print(
                    f"| {sessions} | {flag} | {result.heard_p50:.0f} / {result.heard_p95:.0f} |",
                    end=" ",
                )
                print(
                    f"{result.first_p50:.0f} / {result.first_p95:.0f} | {wasted:.1%} |", flush=True
                )
    same = sum(on == off for on, off in zip(*texts, strict=True))
    print(f"\nSame text at temperature 0 with speculation and without: {same} of {len(texts[0])}")


def capacity(shares: tuple[float, ...] = SHARES, seconds: float = TRIAL_S) -> None:
    """The most sessions at which p95 of decision → first delta stays within the limit.

    A worker of each mode runs all the time, and their trials take turns: what disturbs one
    disturbs the other. While one is tried, the other has nothing to do.
    """
    print("\n| speech | window's tail ", end="")
    print(f"| sessions within {LIMIT_MS:.0f} ms at p95 | p95 there | first beyond |")
    print("| --- | --- | --- | --- | --- |")
    nothing = dict.fromkeys(clips(), "")
    with ExitStack() as workers:
        urls = {
            tail: workers.enter_context(running_worker(**SETTINGS, WINDOW_TAIL=tail))
            for tail in WINDOW_TAILS
        }

        def p95(tail: str, sessions: int, share: float) -> float:
            result = tally(
                asyncio.run(crowd(urls[tail], sessions, seconds, share, ARRIVAL_S)), nothing
            )
            told = f"{tail}, {share:.0%}, {sessions} sessions: {result.turns} turns"
            print(f"{told}, p95 {result.first_p95:.0f} ms", file=sys.stderr, flush=True)
            return result.first_p95 if result.answered == result.turns else float("inf")

        for share in shares:
            searches = {tail: Search() for tail in WINDOW_TAILS}
            while open_ones := {t: one for t, one in searches.items() if not one.is_over}:
                for tail, one in open_ones.items():
                    one.take(p95(tail, one.trial, share))
            for tail, one in searches.items():
                cells = f"{one.good} | {one.figure:.0f} ms | {one.bad}"
                print(f"| {share:.0%} | {tail} | {cells} |", flush=True)


@dataclass
class Search:
    """Sessions that are within the limit, their figure, and the least found not to be."""

    trial: int = 8
    good: int = 0
    figure: float = 0.0
    bad: int = MOST_SESSIONS + 1

    @property
    def is_over(self) -> bool:
        """Whether the two are as close as an eighth."""
        return self.bad - self.good <= max(1, self.good // 8)

    def take(self, p95: float) -> None:
        """The figure of the trial, in ms; `trial` is the next one."""
        if p95 <= LIMIT_MS:
            self.good, self.figure = self.trial, p95
        else:
            self.bad = self.trial
        found_bad = self.bad <= MOST_SESSIONS
        self.trial = (self.good + self.bad) // 2 if found_bad else min(2 * self.good, MOST_SESSIONS)


def main() -> None:
    """Run what was named, or everything."""
    for name in sys.argv[1:] or NAMES:
        match name:
            case "hearing":
                load_hearing.run()
            case "sounds":
                load_sounds.run()
                with running_worker(**SETTINGS) as url:
                    load_sounds.served(url)
            case "cuts":
                with running_worker(**SETTINGS) as url:
                    load_cuts.run(url)
            case "bargein":
                load_bargein.run()
            case "dictation":
                load_dictation.run()
            case "realtime":
                with running_worker(**SETTINGS) as url:
                    asyncio.run(realtime(url))
            case "speculation":
                speculation()
            case "capacity":
                capacity()
            case "capacity_at_30":
                capacity(SHARES[:1])
            case "overload":
                load_overload.run()
            case "chaos":
                load_chaos.run()
            case "soak":
                load_soak.run()
            case "blocking":
                load_blocking.run()
            case "guard":
                load_guard.run()
            case "fuzz":
                load_fuzz.run()
            case _:
                sys.exit(f"no load benchmark {name!r}")


if __name__ == "__main__":
    main()
