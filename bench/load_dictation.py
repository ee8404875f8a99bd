"""People who dictate in real time, sentence after sentence, with short pauses: is a word lost?

The sessions have `mode: transcribe` and defaults otherwise.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from bench.load_speakers import percentile
from builder.voxtral_tiny.vocabulary import bare
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from tests.support.workers import running_worker
from voxtral_worker.client import Failure, Response, Status, VoxtralClient
from voxtral_worker.client.sound import BYTES_PER_SECOND, paced

PEOPLE = 5
SECONDS = 120.0
PAUSE_S = 0.6
# People start at different times.
APART_S = 0.37


@dataclass
class Dictation:
    """What one person said, and its transcripts."""

    sentences: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    interrupted: int = 0
    errors: list[str] = field(default_factory=list)
    # Milliseconds from the end of a turn's speech to its whole transcript.
    took_ms: list[float] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all sentences were transcribed, once and in order, and nothing else.

        Two sentences may share a turn, so words are compared and not turns.
        """
        said, written = " ".join(self.sentences), " ".join(self.texts)
        is_stopped = bool(self.interrupted or self.errors)
        return bare(said).split() == bare(written).split() and not is_stopped

    @property
    def missing(self) -> int:
        """Sentences that do not follow the one before them in the transcript."""
        written, at, missing = bare(" ".join(self.texts)), 0, 0
        for sentence in self.sentences:
            found = written.find(bare(sentence), at)
            missing += found < 0
            at = at if found < 0 else found + len(bare(sentence))
        return missing


async def dictate(url: str, number: int, seconds: float) -> Dictation:
    """One person speaks for some seconds, and waits for the last transcript."""
    person = Dictation()
    known, rng = clips(), random.Random(number)
    pause = silence(round(PAUSE_S * RATE / FRAME_SAMPLES))
    audio = bytearray(silence(10) + bytes(2 * int(number * APART_S * RATE)))
    while len(audio) < seconds * BYTES_PER_SECOND:
        words = rng.choice(list(known))
        person.sentences.append(words)
        audio += known[words] + pause

    async def spoken() -> AsyncIterator[bytes]:
        async for chunk in paced(bytes(audio)):
            yield chunk

    async with VoxtralClient(url, mode="transcribe") as voxtral:
        async for event in voxtral.stream(spoken()):
            match event:
                case Response(text=text, finish_reason=reason):
                    person.texts.append(text)
                    person.took_ms.append(event.metrics["total_ms"])
                    person.interrupted += reason != "stop"
                case Status(status="interrupted"):
                    person.interrupted += 1
                case Failure(error=error):
                    person.errors.append(error)
    return person


async def everybody(url: str, people: int = PEOPLE, seconds: float = SECONDS) -> list[Dictation]:
    """All persons at once."""
    return await asyncio.gather(*[dictate(url, number, seconds) for number in range(people)])


def run(people: int = PEOPLE, seconds: float = SECONDS) -> list[Dictation]:
    """Print the table."""
    with running_worker(RESPONSE_CACHE_SIZE="0") as url:
        spoke = asyncio.run(everybody(url, people, seconds))
    print(f"\n{people} people dictate for {seconds:g} s, pauses of {PAUSE_S:g} s\n")
    print("| person | sentences | turns | missing | interrupted | errors", end=" ")
    print("| all words, in order | end of speech → whole transcript p50 / p95 ms |")
    print(f"| {'--- | ' * 8}")
    for number, each in enumerate(spoke, 1):
        p50, p95 = (percentile(each.took_ms or [float("inf")], share) for share in (50, 95))
        print(f"| {number} | {len(each.sentences)} | {len(each.texts)} | {each.missing}", end=" ")
        print(f"| {each.interrupted} | {len(each.errors)}", end=" ")
        print(f"| {'yes' if each.is_whole else 'no'} | {p50:.0f} / {p95:.0f} |", flush=True)
    return spoke
