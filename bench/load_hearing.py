"""What listening costs: decoding, framing and VAD of many microphones, beside the network alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import silero_vad
import torch

from bench.load_speakers import CHUNK_FRAMES, CHUNK_S
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from voxtral_worker.audio.stream import AudioStream
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
    """The pacing alone, which is the benchmark's."""


async def share_of_a_core(hear: Hear, sessions: int, seconds: float) -> float:
    """CPU time of the process over the time that the sound lasts, for so many microphones.

    Not over wall time, which is longer where other programs take the core.
    """
    audio = b"".join(clip + silence(30) for clip in clips().values())

    async def microphone(number: int) -> None:
        started_s = time.monotonic() + number * CHUNK_S / sessions
        for count in range(int(seconds / CHUNK_S)):
            await asyncio.sleep(max(0.0, started_s + count * CHUNK_S - time.monotonic()))
            at = count * STEP % (len(audio) - STEP)
            await hear(str(number), audio[at : at + STEP])

    # Whatever is made at the first chunk is not what listening costs.
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
