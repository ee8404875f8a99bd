"""Measures what listening costs: decoding, framing and VAD for many microphones.

`python -m bench.load_hearing FOLDER` says what scores of pauses cost: turns of a folder, as
`make turns-check` reads them, of many people who speak for a share of the time.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import silero_vad
import torch
from numpy.typing import NDArray

from bench.load_speakers import CHUNK_FRAMES, CHUNK_S
from bench.turns_check import Spoken, read_manifest
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.settings import TURN_MODEL
from voxtral_worker.turns import completeness
from voxtral_worker.turns.completeness import Completeness, load_network
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.endpoint import Waits
from voxtral_worker.turns.events import SpeechPaused
from voxtral_worker.turns.vad import Vad

Hear: TypeAlias = Callable[[str, bytes], Awaitable[None]]
STEP = 2 * CHUNK_FRAMES * FRAME_SAMPLES


class Batched:
    """The worker's way: each session's stream, and one VAD for all."""

    def __init__(self) -> None:
        self._streams: dict[str, AudioStream] = {}
        self._vad = Vad()
        self._vad.start()

    async def hear(self, key: str, chunk: bytes) -> None:
        """Take a chunk of a microphone."""
        stream = self._streams.setdefault(key, AudioStream("pcm_s16le", RATE))
        await self._vad.listen(key, stream.push(chunk))

    def stop(self) -> None:
        """End the VAD's thread."""
        self._vad.stop()


class OneByOne:
    """A network for each session, asked frame by frame through silero's own wrapper."""

    def __init__(self) -> None:
        self._streams: dict[str, tuple[AudioStream, Any]] = {}

    async def hear(self, key: str, chunk: bytes) -> None:
        """Take a chunk of a microphone."""
        if key not in self._streams:
            model = silero_vad.load_silero_vad(onnx=True)
            self._streams[key] = (AudioStream("pcm_s16le", RATE), model)
        stream, model = self._streams[key]
        for frame in stream.push(chunk):
            model(torch.from_numpy(frame.copy()), RATE)


async def nothing(_: str, __: bytes) -> None:
    """The pacing alone, which is the benchmark's own cost."""


async def share_of_a_core(hear: Hear, sessions: int, seconds: float) -> float:
    """CPU time of the process, divided by the length of the sound, for so many microphones.

    Wall time does not count, because other programs may take the core.
    """
    audio = b"".join(clip + silence(30) for clip in clips().values())

    async def microphone(number: int) -> None:
        started_s = time.monotonic() + number * CHUNK_S / sessions
        for count in range(int(seconds / CHUNK_S)):
            await asyncio.sleep(max(0.0, started_s + count * CHUNK_S - time.monotonic()))
            at = count * STEP % (len(audio) - STEP)
            await hear(str(number), audio[at : at + STEP])

    # The first chunk sets up each stream, which is not a cost of listening.
    for number in range(sessions):
        await hear(str(number), audio[:STEP])
    cpu_s = time.process_time()
    await asyncio.gather(*[microphone(number) for number in range(sessions)])
    return (time.process_time() - cpu_s) / seconds


def run(sessions: int = 50, seconds: float = 15.0) -> tuple[float, float]:
    """Print the table; returns the shares of a core, batched and one by one."""
    pacing = asyncio.run(share_of_a_core(nothing, sessions, seconds))
    batched = Batched()
    together = asyncio.run(share_of_a_core(batched.hear, sessions, seconds)) - pacing
    batched.stop()
    alone = asyncio.run(share_of_a_core(OneByOne().hear, sessions, seconds)) - pacing
    print(f"\n| {sessions} microphones, decoding, framing and VAD | share of one core |")
    print("| --- | --- |")
    print(f"| batched across sessions | {together:.1%} |")
    print(f"| silero-VAD, one network a session | {alone:.1%} |")
    print(f"| (taken off both: the benchmark's pacing) | {pacing:.1%} |", flush=True)
    return together, alone


def _speech_s(turn: Spoken) -> float:
    """Until the end of the turn, without its pauses."""
    holds = sum(end - start for start, end in turn.spans[:-1])
    return turn.spans[-1][0] - holds


class Listener:
    """A microphone whose pauses are scored; its turns come in random order."""

    def __init__(self, key: str, turns: list[Spoken], share: float, scorer: Completeness) -> None:
        self._key, self._share, self._scorer = key, share, scorer
        self._turns, self._random = turns, random.Random(key)
        # Not all begin to speak at once.
        first = silence(self._random.randrange(400))
        self._left: NDArray[np.int16] = np.frombuffer(first, np.int16)
        self._heard = np.zeros((0, FRAME_SAMPLES), np.float32)
        self._detector = TurnDetector()
        self._detector.reconfigure(2, 500, reopen_ms=800, waits=Waits.of("medium", 500))

    def chunk(self) -> bytes:
        """What the microphone sends next."""
        if len(self._left) < STEP // 2:
            turn = self._random.choice(self._turns)
            wait_s = _speech_s(turn) / self._share - len(turn.samples) / RATE
            gap = silence(round(max(0.0, wait_s) * RATE / FRAME_SAMPLES))
            self._left = np.concatenate([self._left, turn.samples, np.frombuffer(gap, "<i2")])
        sent, self._left = self._left[: STEP // 2], self._left[STEP // 2 :]
        return sent.tobytes()

    async def hear(self, vad: Vad, data: bytes) -> None:
        """Hear a chunk, and have a pause scored."""
        frames = np.frombuffer(data, "<i2").reshape(-1, FRAME_SAMPLES).astype(np.float32)
        frames /= np.float32(32_768)
        for frame, probability in zip(frames, await vad.listen(self._key, frames), strict=True):
            self._heard = np.concatenate([self._heard[-300:], frame[None]])
            energy = float(np.square(frame).sum())
            for event in self._detector.hear(float(probability), energy):
                if isinstance(event, SpeechPaused) and event.is_scored:
                    count = min(250, event.end_frame - event.first_frame)
                    score = self._scorer.ask(self._heard[-count:].reshape(-1))
                    score.add_done_callback(partial(self._tell, event))

    def _tell(self, pause: SpeechPaused, score: completeness.Score) -> None:
        self._detector.score(pause, score.result())


async def scores(
    folder: Path, sessions: int = 50, seconds: float = 40.0, share: float = 0.3
) -> None:
    """Print what the scores of so many people cost, in CPU time of the thread that makes them."""
    turns, vad, network = read_manifest(folder), Vad(), load_network(TURN_MODEL)
    # On a busy machine a late score is made all the same.
    completeness.PATIENCE_S = 60.0
    # CPU time of the scorer's thread since its start, after each score.
    spent_s = [0.0]

    def counting(rows: completeness.Samples) -> float:
        score = network(rows)
        spent_s.append(time.thread_time())
        return score

    scorer = Completeness(counting)
    vad.start()
    scorer.start()
    people = [Listener(str(n), turns, share, scorer) for n in range(sessions)]

    async def microphone(number: int) -> None:
        started_s = time.monotonic() + number * CHUNK_S / sessions
        for count in range(int(seconds / CHUNK_S)):
            await asyncio.sleep(max(0.0, started_s + count * CHUNK_S - time.monotonic()))
            await people[number].hear(vad, people[number].chunk())

    await asyncio.gather(*[microphone(number) for number in range(sessions)])
    vad.stop()
    scorer.stop()
    made, cpu_s = len(spent_s) - 1, spent_s[-1]
    each_ms = 1000 * cpu_s / max(1, made)
    print(f"{sessions} people, {share:.0%} speech, {seconds:.0f} s: {made} scores,")
    print(f"{each_ms:.0f} ms of CPU time each, {cpu_s / seconds:.2f} of a core")


if __name__ == "__main__":
    asyncio.run(scores(Path(sys.argv[1])))
