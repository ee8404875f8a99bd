"""Counts false turns and false responses: those to sounds without speech."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from tests.support.sounds import clips, silence
from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.events import Failure, Pong, Response, Status
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.events import SpeechStarted
from voxtral_worker.turns.vad import MAX_FRAMES, Vad

RATE = 16_000
TIMEOUT_S = 60.0
FRAME_SAMPLES = 512
MINUTES = 10.0
CHUNK_BYTES = 3200
# So many chunks are sent before the worker must have taken them: more would wait in the sockets.
AHEAD_CHUNKS = 50
# The sentence that is said after each sound, to show that the session still listens.
CONTROL = "turn on the kitchen light"
Samples = NDArray[np.float32]


def quiet(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * RATE), np.float32)


def white(seconds: float) -> Samples:
    """White noise at -20 dB."""
    return (0.1 * np.random.default_rng(1).standard_normal(int(seconds * RATE))).astype(np.float32)


def pink(seconds: float) -> Samples:
    """Noise whose power falls as 1/f, at -20 dB."""
    count = int(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(2).standard_normal(count))
    spectrum /= np.sqrt(np.maximum(1, np.arange(len(spectrum))))
    noise = np.fft.irfft(spectrum, count)
    return np.asarray(0.1 * noise / noise.std(), np.float32)


def music(seconds: float) -> Samples:
    """Chords of decaying harmonics over a bass, two a second."""
    random, out = np.random.default_rng(3), quiet(seconds)
    t = np.arange(RATE) / RATE
    for start in range(0, len(out) - RATE, RATE // 2):
        root = 110 * 2 ** (random.integers(0, 12) / 12)
        for ratio in (0.5, 1, 2 ** (4 / 12), 2 ** (7 / 12), 2):
            for harmonic in range(1, 5):
                tone = np.sin(2 * np.pi * root * ratio * harmonic * t) / harmonic
                out[start : start + RATE] += 0.03 * tone * np.exp(-3 * t)
    return out.clip(-1, 1)


def coughs(seconds: float) -> Samples:
    """Bursts of noise shaped as a cough is: a sharp onset, 150-350 ms, two or three in a row."""
    random, out = np.random.default_rng(4), 0.001 * white(seconds)
    at = RATE
    while at < len(out) - 3 * RATE:
        for _ in range(random.integers(1, 4)):
            length = int(random.uniform(0.15, 0.35) * RATE)
            burst = np.convolve(random.standard_normal(length), np.ones(6) / 6, "same")
            out[at : at + length] += 0.5 * burst * np.exp(-6 * np.arange(length) / length)
            at += length + int(0.1 * RATE)
        at += int(random.uniform(2, 6) * RATE)
    return out.clip(-1, 1).astype(np.float32)


def clicks(seconds: float) -> Samples:
    """Keys of a keyboard, five to ten a second."""
    random, out = np.random.default_rng(5), 0.001 * white(seconds)
    at = 0
    while at < len(out) - RATE:
        length = int(random.uniform(0.004, 0.02) * RATE)
        decay = np.exp(-8 * np.arange(length) / length)
        out[at : at + length] += 0.4 * random.standard_normal(length) * decay
        at += int(random.uniform(0.1, 0.2) * RATE)
    return out.clip(-1, 1).astype(np.float32)


SOUNDS: dict[str, Callable[[float], Samples]] = {
    "silence": quiet,
    "white noise": white,
    "pink noise": pink,
    "music, synthesized": music,
    "coughs, synthesized": coughs,
    "keyboard clicks, synthesized": clicks,
}


async def turns(sound: Samples, sensitivity: int = 2) -> int:
    """How many turns are heard in a sound, float32 [n]."""
    frames = sound[: len(sound) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    vad, detector = Vad(), TurnDetector(sensitivity)
    vad.start()
    started = 0
    for piece in _pieces(frames):
        probabilities = await vad.listen("sound", piece)
        for frame, probability in zip(piece, probabilities, strict=True):
            events = detector.hear(float(probability), float(frame @ frame))
            started += any(isinstance(event, SpeechStarted) for event in events)
    vad.stop()
    return started


def _pieces(frames: Samples) -> Iterator[Samples]:
    for start in range(0, len(frames), MAX_FRAMES):
        yield frames[start : start + MAX_FRAMES]


def spoken() -> list[Samples]:
    """Every bundled sentence with a quiet room around it."""
    streams = [silence(30) + clip + silence(30) for clip in clips().values()]
    return [np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768) for data in streams]


async def responses(url: str, sound: Samples) -> Counter[str]:
    """What a session at a worker makes of a sound, float32 [n], sent as fast as it is taken.

    The worker keeps time by counting frames, so the speed changes no turn. A sentence is said
    after the sound; its own turn is not counted, and "answered" says whether it was understood.
    """
    data = (32767 * sound.clip(-1, 1)).astype("<i2").tobytes() + silence(60)
    spoken = clips()[CONTROL] + silence(30)

    async def chunks() -> AsyncIterator[bytes]:
        for number, start in enumerate(range(0, len(data), CHUNK_BYTES), 1):
            yield data[start : start + CHUNK_BYTES]
            if number % AHEAD_CHUNKS == 0:
                has_taken.clear()
                await client.ping()
                await asyncio.wait_for(has_taken.wait(), TIMEOUT_S)
        yield spoken

    has_taken = asyncio.Event()
    found: Counter[str] = Counter()
    async with (
        VoxtralClient(url, temperature=0, reopen_ms=0) as client,
        aclosing(client.stream(chunks())) as events,
    ):
        async for event in events:
            if isinstance(event, Failure):
                raise RuntimeError(event.error)
            if isinstance(event, Pong):
                has_taken.set()
            if isinstance(event, Status):
                found["turns"] += event.status == "speech_started"
            if isinstance(event, Response):
                is_control = CONTROL in event.text.lower()
                found["answered" if is_control else "responses"] += 1
    found["turns"] -= found["answered"]
    return found


def served(url: str, minutes: float = MINUTES) -> dict[str, Counter[str]]:
    """Print the table for a whole worker, with a session a sound; returns what it made of each."""

    async def all_of_them() -> list[Counter[str]]:
        sounds = [make(60 * minutes) for make in SOUNDS.values()]
        return await asyncio.gather(*(responses(url, sound) for sound in sounds))

    found = dict(zip(SOUNDS, asyncio.run(all_of_them()), strict=True))
    print(f"\n| sound, {minutes:g} minutes, through a worker | turns ", end="")
    print("| responses | a sentence after it |\n| --- | --- | --- | --- |")
    for name, one in found.items():
        after = "understood" if one["answered"] == 1 else "NOT UNDERSTOOD"
        print(f"| {name} | {one['turns']} | {one['responses']} | {after} |", flush=True)
    return found


def run(minutes: float = MINUTES) -> dict[str, int]:
    """Print the table; returns how many turns were heard in each sound."""
    heard = {name: asyncio.run(turns(make(60 * minutes))) for name, make in SOUNDS.items()}
    print(f"\n| sound, {minutes:g} minutes | turns heard |\n| --- | --- |")
    for name, count in heard.items():
        print(f"| {name} | {count} |")
    clean = [asyncio.run(turns(sound)) for sound in spoken()]
    print(f"| clean sentences: {len(clean)} spoken | {sum(clean)} |", flush=True)
    return heard
