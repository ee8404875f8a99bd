"""When turns end, and which are cut: `make turns-check RECORDINGS=folder`.

Plays turns of which it is known where they pause and where they end to a worker, in steps of one
frame, so that it is known after which frame of sound a turn was over. A table has one row for each
way to detect turns, in the terms of LiveKit's eot-bench: a `hold` is a pause within a turn, of at
least 0.1 s; it is cut when the turn ends in it. The wait is the silence between the last speech
and the end of the turn. A cut is mended when the turn opens again because the speaker continues.

The folder holds `manifest.jsonl`, one object a line, with fields of eot-bench's data:

    {"id": "7", "audio": "7.wav", "language": "en", "kind": "list",
     "silence_spans": [{"start": 1.2, "end": 1.5}, {"start": 4.1, "end": 5.0}]}

`audio` is a file next to it; spans are in seconds and in order, and the last one is the end of the
turn. `language` and `kind` may be left out; `kind` says for which turns a table of its own is made.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tests.support.workers import running_process
from voxtral_worker.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from voxtral_worker.client import VoxtralClient
from voxtral_worker.client.events import Event, Failure, Pong, Status
from voxtral_worker.settings import REPOSITORY

LEAST_SPAN_S = 0.1
# Silence at the end of a recording, so that every turn ends.
TAIL_S = 2.2
SIDE_BY_SIDE = 32
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE
# The VAD hears the end of speech a little late, and the beginning too.
LATE_S = 0.1
WAIT_S = 120.0
WAYS: dict[str, dict[str, Any]] = {
    "silence 500": {"silence_ms": 500},
    "silence 320": {"silence_ms": 320},
    "semantic, low": {"turn_detection": "semantic", "eagerness": "low"},
    "semantic, medium": {"turn_detection": "semantic", "eagerness": "medium"},
    "semantic, high": {"turn_detection": "semantic", "eagerness": "high"},
}


class BadManifest(Exception):
    """The recordings cannot be used; the text says why."""


@dataclass(frozen=True)
class Spoken:
    """One turn, int16 [n] at 16 kHz, and its pauses in seconds; the last one is its end."""

    name: str
    kind: str
    samples: NDArray[np.int16]
    spans: tuple[tuple[float, float], ...]


@dataclass
class Heard:
    """What the worker said of a turn, and after how many seconds of sound."""

    spoken: Spoken
    ended: list[tuple[float, str | None]] = field(default_factory=list)
    reopened: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def wait_s(self) -> float | None:
        """From the end of the speech to the end of the turn."""
        start = self.spoken.spans[-1][0]
        after = [at for at, _ in self.ended if at > start]
        return after[0] - start if after else None

    def cuts(self) -> list[tuple[tuple[float, float], bool]]:
        """The holds in which the turn ended, and whether it was opened again after each."""
        cut = []
        for start, end in self.spoken.spans[:-1]:
            ends = [at for at, _ in self.ended if start < at <= end + LATE_S]
            if ends:
                later = [at for at, _ in self.ended if at > ends[-1]]
                until = min(later, default=float("inf"))
                cut.append(((start, end), any(ends[-1] < at <= until for at in self.reopened)))
        return cut


def read_manifest(folder: Path) -> list[Spoken]:
    """The turns of a folder. Raises BadManifest that names the line and what is wrong with it."""
    path = folder / "manifest.jsonl"
    if not path.is_file():
        raise BadManifest(f"{path} is not there")
    turns = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.strip():
            try:
                turns.append(_spoken(folder, json.loads(line)))
            except (ValueError, KeyError, TypeError, OSError, soundfile.SoundFileError) as error:
                raise BadManifest(f"{path}, line {number}: {error}") from error
    if not turns:
        raise BadManifest(f"{path} has no turn")
    return turns


def _spoken(folder: Path, row: dict[str, Any]) -> Spoken:
    spans = tuple((float(span["start"]), float(span["end"])) for span in row["silence_spans"])
    if not spans:
        raise ValueError("silence_spans is empty, but its last one is the end of the turn")
    if any(start >= end for start, end in spans) or list(spans) != sorted(spans):
        raise ValueError("silence_spans must be in order, each with a start before its end")
    samples, rate = soundfile.read(folder / row["audio"], dtype="float32", always_2d=True)
    samples = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
    last = spans[-1][0]
    if last > len(samples) / SAMPLE_RATE:
        raise ValueError(f"the last silence starts at {last} s, after the end of {row['audio']}")
    # What is said behind the end of the turn would be another turn.
    samples = samples[: int(min(spans[-1][1], last + TAIL_S) * SAMPLE_RATE)]
    most = int((last + TAIL_S) * SAMPLE_RATE)
    whole = np.concatenate([samples, np.zeros(most - len(samples), np.float32)])
    whole = np.pad(whole, (0, -len(whole) % FRAME_SAMPLES))
    holds = tuple(span for span in spans[:-1] if span[1] - span[0] >= LEAST_SPAN_S)
    clipped = (whole * 32_767).clip(-32_768, 32_767).astype(np.int16)
    return Spoken(str(row["id"]), str(row.get("kind", "all")), clipped, (*holds, spans[-1]))


async def play(url: str, spoken: Spoken, config: dict[str, Any], key: str | None) -> Heard:
    """Let a worker hear one turn, frame by frame; each is waited for."""
    heard = Heard(spoken)
    async with (
        VoxtralClient(url, token=key, **config) as client,
        aclosing(client.events()) as events,
    ):
        for number, frame in enumerate(spoken.samples.reshape(-1, FRAME_SAMPLES), 1):
            await client.send_audio(frame.tobytes())
            await client.ping()
            async with asyncio.timeout(WAIT_S):
                while not isinstance(event := await anext(events), Pong):
                    _note(heard, event, number * FRAME_S)
    return heard


def _note(heard: Heard, event: Event, at_s: float) -> None:
    match event:
        case Failure(error=error):
            raise RuntimeError(f"{heard.spoken.name}: {error}")
        case Status(status="turn_reopened"):
            heard.reopened.append(at_s)
        case Status(message, "speech_ended"):
            heard.ended.append((at_s, message.get("reason")))
            if "completeness" in message:
                heard.scores.append(message["completeness"])


async def play_all(
    url: str, turns: Iterable[Spoken], config: dict[str, Any], key: str | None = None
) -> list[Heard]:
    """Every turn, some side by side, each in a session of its own."""
    places = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(spoken: Spoken) -> Heard:
        async with places:
            return await play(url, spoken, config, key)

    # What an answer says does not matter here.
    config = {"max_length": 1, **config}
    return list(await asyncio.gather(*[one(spoken) for spoken in turns]))


HEADS = (
    "turns", "wait p50", "mean", "p90", "longest", "holds", "cut", "still cut after reopening",
)  # fmt: skip


def row_of(all_heard: Sequence[Heard]) -> list[str]:
    """The cells of `HEADS`; times are ms."""
    waits = sorted(1000 * heard.wait_s for heard in all_heard if heard.wait_s is not None)
    holds = sum(len(heard.spoken.spans) - 1 for heard in all_heard)
    cuts = [is_mended for heard in all_heard for _, is_mended in heard.cuts()]
    p90 = waits[min(len(waits) - 1, int(0.9 * len(waits)))]
    cells = [statistics.median(waits), statistics.mean(waits), p90, waits[-1]]
    missing = len(all_heard) - len(waits)
    return [
        f"{len(all_heard)}" + (f" ({missing} without an end)" if missing else ""),
        *[f"{cell:,.0f}" for cell in cells],
        str(holds),
        _share(len(cuts), holds),
        _share(cuts.count(False), holds),
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def print_table(head: str, rows: dict[str, list[str]]) -> None:
    """A table of Markdown."""
    print(f"\n| {head} | " + " | ".join(HEADS) + " |")
    print("| --- |" + " --- |" * len(HEADS))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def check(url: str, turns: list[Spoken], ways: Iterable[str], key: str | None = None) -> None:
    """Play all turns in every way, and print what came of it."""
    found: dict[str, list[Heard]] = {}
    for way in ways:
        found[way] = asyncio.run(play_all(url, turns, WAYS[way], key))
        print(f"{way}: {len(turns)} turns", file=sys.stderr)
    print_table("turn detection", {way: row_of(heard) for way, heard in found.items()})
    kinds = sorted({spoken.kind for spoken in turns})
    for way, heard in found.items() if len(kinds) > 1 else ():
        rows = {
            kind: row_of([each for each in heard if each.spoken.kind == kind]) for kind in kinds
        }
        print_table(f"{way}: kind", rows)


@contextmanager
def _worker(url: str | None) -> Iterator[str]:
    """A worker that runs, or one of its own, which waits for every score on a busy machine too."""
    if url is not None:
        yield url
        return
    script = REPOSITORY / "tests/support/patient_worker.py"
    with running_process({"SPECULATION": "false"}, script=script) as worker:
        yield worker.url


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m bench.turns_check FOLDER`. Returns the exit code."""
    parser = argparse.ArgumentParser(description="When turns end, and which are cut.")
    parser.add_argument("recordings", type=Path, help="folder with manifest.jsonl")
    parser.add_argument("--url", help="a worker that runs; default: one of its own, embedded model")
    parser.add_argument("--key", help="its API key")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    given = parser.parse_args(argv)
    try:
        turns = read_manifest(given.recordings)
    except BadManifest as error:
        print(error, file=sys.stderr)
        return 1
    with _worker(given.url) as url:
        check(url.rstrip("/"), turns, given.ways, given.key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
