"""How long people wait for the first word: `python -m bench.turns_live FOLDER`.

Plays turns of a folder, as `make turns-check` reads them, in real time to a worker of its own with
the embedded model, a frame a message. Times are those of the client's clock, from the end of the
sound: so they hold the VAD, the silence that is waited for, the score, the answer, and the sockets.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load_speakers import percentile, scrape
from bench.turns_check import (
    FRAME_S,
    WAIT_S,
    WAYS,
    BadManifest,
    Spoken,
    read_manifest,
)
from tests.support.workers import running_worker
from voxtral_worker.audio.frames import FRAME_SAMPLES
from voxtral_worker.client import VoxtralClient
from voxtral_worker.client.events import Delta, Failure, Response, Status

# Sessions at once: the worker is to have time for each.
SIDE_BY_SIDE = 2
KINDS = ("sentence", "people")
STAGES = ("VAD and sockets", "silence", "answer", "end of speech → first delta")
SETTINGS = {"RESPONSE_CACHE_SIZE": "0", "METRICS_PUBLIC": "true"}


@dataclass(frozen=True)
class Waited:
    """What one turn waited for, in ms, and what ended it.

    `silence`: from the VAD's last frame of speech to the decision; `answer`: from there to the
    first delta; both by the worker's clock. `whole`: from the end of the sound to the first delta,
    by the client's.
    """

    silence: float
    answer: float
    whole: float
    reason: str

    @property
    def stages(self) -> tuple[float, ...]:
        """What the VAD and the sockets are late, the other stages, and the whole."""
        return (self.whole - self.silence - self.answer, self.silence, self.answer, self.whole)


async def play(url: str, spoken: Spoken, config: dict[str, Any]) -> Waited | None:
    """Let a worker hear one turn as a microphone would; None: it ended too early, or never."""
    async with VoxtralClient(url, **config) as client:
        started_s = time.monotonic()

        async def speak() -> None:
            frames = spoken.samples.reshape(-1, FRAME_SAMPLES)
            for number, frame in enumerate(frames, 1):
                await asyncio.sleep(max(0.0, started_s + number * FRAME_S - time.monotonic()))
                await client.send_audio(frame.tobytes())

        speaking = asyncio.create_task(speak())
        try:
            return await _wait(client, started_s, 1000 * spoken.spans[-1][0])
        except TimeoutError:
            return None
        finally:
            await speaking


async def _wait(client: VoxtralClient, started_s: float, end_ms: float) -> Waited | None:
    reason, first_ms = "", 0.0
    async with asyncio.timeout(WAIT_S), aclosing(client.events()) as events:
        async for event in events:
            now_ms = 1000 * (time.monotonic() - started_s)
            match event:
                case Failure(error=error):
                    raise RuntimeError(error)
                case Status(message, "speech_ended"):
                    reason, first_ms = message["reason"] if now_ms > end_ms else "", 0.0
                case Delta() if reason and not first_ms:
                    first_ms = now_ms
                case Response(metrics=told) if first_ms:
                    whole_ms = first_ms - end_ms
                    return Waited(told["endpoint_ms"], told["first_token_ms"], whole_ms, reason)
    return None


def row_of(waits: Sequence[Waited]) -> str:
    """Cells: turns, how many a score ended, p50 of each stage, and p90 of their sum."""
    semantic = sum(waited.reason == "semantic" for waited in waits)
    columns = list(zip(*(waited.stages for waited in waits), strict=True))
    cells = [f"{statistics.median(column):.0f}" for column in columns]
    return (
        f"{len(waits)} | {semantic} | {' | '.join(cells)} | {percentile(list(columns[-1]), 90):.0f}"
    )


def run(turns: Sequence[Spoken], ways: Sequence[str], kinds: Sequence[str]) -> None:
    """Print the table."""
    print(f"\n| turn detection | turns | by their score | {' | '.join(STAGES)}, p50 | p90 |")
    print("| --- |" + " --- |" * (len(STAGES) + 3), flush=True)
    with running_worker(**SETTINGS) as url:
        for way in ways:
            places = asyncio.Semaphore(SIDE_BY_SIDE)

            async def one(
                spoken: Spoken, way: str = way, places: asyncio.Semaphore = places
            ) -> tuple[str, Waited | None]:
                async with places:
                    return spoken.kind, await play(url, spoken, {"temperature": 0, **WAYS[way]})

            async def everyone() -> list[tuple[str, Waited | None]]:
                return await asyncio.gather(*[one(spoken) for spoken in turns])

            found = asyncio.run(everyone())
            for name, those in [*((kind, (kind,)) for kind in kinds), ("all of them", kinds)]:
                waits = [waited for kind, waited in found if kind in those and waited is not None]
                if waits:
                    print(f"| {way}: {name} | {row_of(waits)} |", flush=True)
        print(f"\n{_scores(url)}")


def _scores(url: str) -> str:
    """What the worker's metrics say of its scores."""
    named = ("voxtral_turn_scores_total", "voxtral_turn_score_seconds_sum")
    return ", ".join(
        f"{name} {value:g}" for name, value in scrape(url).items() if name.startswith(named)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="How long people wait for the first word.")
    parser.add_argument("recordings", type=Path, help="folder with manifest.jsonl")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=["semantic, medium"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    given = parser.parse_args(argv)
    try:
        turns = [turn for turn in read_manifest(given.recordings) if turn.kind in given.kinds]
    except BadManifest as error:
        print(error, file=sys.stderr)
        return 1
    run(turns, given.ways, given.kinds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
