"""Paced clients: sessions that speak at a microphone's speed, and their answers.

The clients run in the benchmark's process, and the worker in a process of its own.
"""

import asyncio
import random
import re
import statistics
import time
import urllib.request
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.events import Failure, Response
from voxtral_worker.client.options import Options

CHUNK_FRAMES = 2
CHUNK_S = CHUNK_FRAMES * FRAME_SAMPLES / RATE
# Longer than the silence that ends a turn, so that turns stay apart even in dense speech.
LEAST_GAP_FRAMES = 20
PATIENCE_S = 60.0
# A wrong message after the last answer would come within this time.
AFTERMATH_S = 1.0
CONFIG: Options = {"mode": "transcribe", "temperature": 0, "barge_in": False}


@dataclass
class Talk:
    """What one session says, and its answers."""

    audio: bytes
    words: list[str]
    responses: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def plan(seconds: float, share: float, rng: random.Random) -> Talk:
    """A microphone's stream that holds speech for a share of the time."""
    known = clips()
    audio, words = bytearray(silence(rng.randint(10, 60))), []
    while len(audio) < seconds * 2 * RATE:
        said = rng.choice(list(known))
        gap = int(len(known[said]) / (2 * FRAME_SAMPLES) * (1 / share - 1))
        audio += known[said] + silence(max(LEAST_GAP_FRAMES, rng.randint(gap // 2, gap * 3 // 2)))
        words.append(said)
    return Talk(bytes(audio + silence(LEAST_GAP_FRAMES)), words)


async def hold(url: str, talk: Talk, *, is_paced: bool = True) -> Talk:
    """Say all of it in a session of its own."""
    async with VoxtralClient(url, **CONFIG) as client:
        await converse(client, talk, is_paced=is_paced)
    return talk


async def converse(client: VoxtralClient, talk: Talk, *, is_paced: bool = True) -> None:
    """Say all of it; returns when every turn is answered or the time is over."""
    listening = asyncio.create_task(_listen(client, talk, len(talk.words)))
    await _speak(client, talk.audio, is_paced=is_paced)
    await asyncio.wait([listening], timeout=PATIENCE_S)
    if listening.done() and is_paced:
        # Any further answer is one too many.
        listening = asyncio.create_task(_listen(client, talk, len(talk.words) + 1))
        await asyncio.wait([listening], timeout=AFTERMATH_S)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def _speak(client: VoxtralClient, audio: bytes, *, is_paced: bool) -> None:
    step = CHUNK_FRAMES * FRAME_SAMPLES * 2
    started_s = time.monotonic()
    for number, start in enumerate(range(0, len(audio), step)):
        if is_paced:
            await asyncio.sleep(max(0.0, started_s + number * CHUNK_S - time.monotonic()))
        await client.send_audio(audio[start : start + step])


async def _listen(client: VoxtralClient, talk: Talk, responses: int) -> None:
    async with aclosing(client.events()) as events:
        async for event in events:
            if isinstance(event, Response):
                talk.responses.append(event.message)
            elif isinstance(event, Failure):
                talk.errors.append(event.error)
            if len(talk.responses) >= responses:
                return


async def answers_alone(url: str) -> dict[str, str]:
    """The transcript of each sentence, said alone in a session of its own."""
    responses = await asyncio.gather(*[_say(url, words, is_paced=False) for words in clips()])
    return {words: each["text"] for words, each in zip(clips(), responses, strict=True)}


async def answers_in_real_time(url: str, sentences: Iterable[str]) -> list[dict[str, Any]]:
    """Responses to sentences that are spoken at the same time, each in a session of its own."""
    return await asyncio.gather(*[_say(url, words, is_paced=True) for words in sentences])


async def _say(url: str, words: str, *, is_paced: bool) -> dict[str, Any]:
    talk = Talk(silence(30) + clips()[words] + silence(LEAST_GAP_FRAMES), [words])
    await hold(url, talk, is_paced=is_paced)
    return talk.responses[0]


async def crowd(
    url: str, sessions: int, seconds: float, share: float, within_s: float = 0.0
) -> list[Talk]:
    """So many sessions, each with its own sentences, which begin one by one within a time."""
    talks = [plan(seconds, share, random.Random(seed)) for seed in range(sessions)]

    async def come(number: int) -> Talk:
        await asyncio.sleep(within_s * number / sessions)
        return await hold(url, talks[number])

    return await asyncio.gather(*[come(number) for number in range(sessions)])


@dataclass(frozen=True)
class Tally:
    """The results of a crowd's turns; times in ms."""

    turns: int
    answered: int
    right: int
    first_p50: float
    first_p95: float
    heard_p50: float
    heard_p95: float
    speculative: int
    extra: int
    errors: int


def tally(talks: list[Talk], alone: dict[str, str]) -> Tally:
    """Count turns answered, answered with the right words in the right order, and how soon."""
    metrics = [r["metrics"] for talk in talks for r in talk.responses]
    first = [m["first_token_ms"] for m in metrics] or [float("inf")]
    heard = [m["endpoint_ms"] + m["first_token_ms"] for m in metrics] or [float("inf")]
    right = sum(
        alone[words] == response["text"]
        for talk in talks
        for words, response in zip(talk.words, talk.responses, strict=False)
    )
    return Tally(
        sum(len(talk.words) for talk in talks),
        sum(min(len(talk.responses), len(talk.words)) for talk in talks),
        right,
        statistics.median(first),
        percentile(first, 95),
        statistics.median(heard),
        percentile(heard, 95),
        sum(bool(m["speculative"]) for m in metrics),
        sum(max(0, len(talk.responses) - len(talk.words)) for talk in talks),
        sum(len(talk.errors) for talk in talks),
    )


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent do not exceed."""
    return float(np.percentile(np.array(values), percent, method="higher"))


def scrape(url: str) -> dict[str, float]:
    """Every sample of the worker's `/metrics`, by name and labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        return samples_of(response.read().decode())


def samples_of(metrics: str) -> dict[str, float]:
    """Every sample of a text of metrics, by name and labels."""
    lines = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def loud_frames(audio: bytes, share: float) -> NDArray[np.intp]:
    """Numbers of the frames that are louder than this share of the loudest one."""
    frames = np.frombuffer(audio, "<i2").astype(np.float32).reshape(-1, FRAME_SAMPLES)
    loudness = np.sqrt((frames**2).mean(axis=1))
    return np.flatnonzero(loudness > share * loudness.max())


def lag_p95_ms(before: dict[str, float], after: dict[str, float]) -> float:
    """Upper bound of the bucket that holds the 95th percentile of the event loop's lag."""
    name = r'voxtral_event_loop_lag_seconds_bucket\{le="(.+)"\}'
    grown = {
        float(match[1]): value - before.get(key, 0.0)
        for key, value in after.items()
        if (match := re.fullmatch(name, key))
    }
    total = max(grown.values())
    return 1000 * min(bound for bound, count in grown.items() if count >= 0.95 * total)


def discarded_share(before: dict[str, float], after: dict[str, float]) -> float:
    """The share of computed tokens that were of wrong speculations."""

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    made = grown("voxtral_tokens_generated_total") + grown("voxtral_tokens_prefilled_total")
    return grown("voxtral_speculation_discarded_tokens_total") / max(1.0, made)
