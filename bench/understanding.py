"""Word error rate through the whole server: WebSocket, VAD, turns, engine.

A voice that was never trained on (flite's rms) speaks the vocabulary; every sentence is a
turn of one session in transcribe mode.
"""

import asyncio
import random
from collections import defaultdict
from contextlib import aclosing

import numpy as np

from builder.voxtral_tiny import voices
from builder.voxtral_tiny.evaluation import edits
from builder.voxtral_tiny.vocabulary import KINDS, bare, sentence
from tests.support.workers import running_worker
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.events import Response
from voxtral_worker.engine.layout import WINDOW_TAILS

PER_KIND = 15
CHUNK_BYTES = 3200
TIMEOUT_S = 30.0


async def transcribe(url: str, sentences: list[str]) -> list[str]:
    """The worker's transcript of each sentence; audio is sent as fast as possible."""
    heard = []
    async with VoxtralClient(url, mode="transcribe", barge_in=False) as client:
        for words in sentences:
            data = voices.speak(words).astype("<i2").tobytes()
            silence = np.zeros(8000, "<i2").tobytes()
            stream = silence + data + silence + silence
            for start in range(0, len(stream), CHUNK_BYTES):
                await client.send_audio(stream[start : start + CHUNK_BYTES])
            heard.append(await asyncio.wait_for(_response(client), TIMEOUT_S))
    return heard


async def _response(client: VoxtralClient) -> str:
    async with aclosing(client.events()) as events:
        async for event in events:
            if isinstance(event, Response):
                return event.text
    raise RuntimeError("the connection was closed")


def run(per_kind: int = PER_KIND) -> dict[str, float]:
    """Print the table; returns the word error rate over all kinds, by the window's tail."""
    rng = random.Random(4242)
    asked = [(kind, sentence(rng, kind)) for kind in KINDS for _ in range(per_kind)]
    errors: dict[tuple[str, str], int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    for kind, words in asked:
        for name in (kind, "all"):
            counts[name] += len(words.split())
    for tail in WINDOW_TAILS:
        with running_worker(WINDOW_TAIL=tail) as url:
            heard = asyncio.run(transcribe(url, [words for _, words in asked]))
        for (kind, words), text in zip(asked, heard, strict=True):
            for name in (kind, "all"):
                errors[tail, name] += edits(words.split(), bare(text).split())
    print("\nWord error rate through the server, voice held out of training (flite rms)\n")
    print("| kind | words | exact | sampled |\n| --- | --- | --- | --- |")
    rates = {key: count / counts[key[1]] for key, count in errors.items()}
    for name, count in counts.items():
        cells = " | ".join(f"{100 * rates[tail, name]:.1f} %" for tail in WINDOW_TAILS)
        print(f"| {name} | {count} | {cells} |")
    return {tail: rates[tail, "all"] for tail in WINDOW_TAILS}
