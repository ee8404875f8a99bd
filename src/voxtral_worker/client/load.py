"""Simulates users who speak in real time, and measures how soon they are answered."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Delta, Failure, Response
from voxtral_worker.client.retry import Retry
from voxtral_worker.client.sound import BYTES_PER_SECOND, paced

# A user whose turns are not all answered so long after the end counts as an error.
PATIENCE_S = 30.0
PERCENTS = (50, 95, 99)


@dataclass
class Load:
    """`sessions` users who speak for `seconds`, and what was measured; times in ms."""

    sessions: int
    seconds: float
    pause_s: float
    clips: Sequence[bytes]
    spoken: int = 0
    turns: int = 0
    errors: list[str] = field(default_factory=list)
    # Times to the first delta: from the end of speech and from the end of the turn, both measured
    # by the worker; and from the end of the clip, measured here with the network's time.
    heard_ms: list[float] = field(default_factory=list)
    decided_ms: list[float] = field(default_factory=list)
    here_ms: list[float] = field(default_factory=list)

    async def run(self, url: str, token: str | None) -> None:
        """Speak for the given time, then wait for the last answers, at most `PATIENCE_S`."""
        users = [self._user(number, url, token) for number in range(self.sessions)]
        await asyncio.gather(*users)

    async def _user(self, number: int, url: str, token: str | None) -> None:
        try:
            async with asyncio.timeout(self.seconds + PATIENCE_S):
                # No retries when opening: a refused session is a result of the measurement.
                client = VoxtralClient(url, token=token, retry=Retry(most=0), barge_in=False)
                async with client as voxtral:
                    await self._talk(number, voxtral)
        except VoxtralError as error:
            self.errors.append(str(error))
        except TimeoutError:
            self.errors.append(f"not answered within {PATIENCE_S:.0f} s")

    async def _talk(self, number: int, voxtral: VoxtralClient) -> None:
        # When the last clip was sent. The first delta after it takes it out, so each clip is
        # measured once.
        ends: deque[float] = deque(maxlen=1)
        async for event in voxtral.stream(self._speech(number, ends)):
            match event:
                case Delta() if ends:
                    self.here_ms.append(1000 * (time.monotonic() - ends.pop()))
                case Response(metrics=metrics, finish_reason=reason) if reason != "interrupted":
                    self._count(metrics)
                case Failure(error=error):
                    self.errors.append(error)

    def _count(self, metrics: dict[str, Any]) -> None:
        self.turns += 1
        first_ms = metrics["first_token_ms"]
        self.decided_ms.append(first_ms)
        self.heard_ms.append(metrics["endpoint_ms"] + first_ms)

    async def _speech(self, number: int, ends: "deque[float]") -> AsyncIterator[bytes]:
        """Clip, pause, clip, pause…, at a microphone's speed. Each user begins another clip."""
        pause = bytes(int(self.pause_s * BYTES_PER_SECOND / 2) * 2)
        # Users start at different times, so that their turns do not all end at once.
        first = bytes(int(number / self.sessions * self.pause_s * BYTES_PER_SECOND / 2) * 2)
        deadline_s = time.monotonic() + self.seconds
        async for chunk in paced(first):
            yield chunk
        while time.monotonic() < deadline_s:
            clip = self.clips[(number + self.spoken) % len(self.clips)]
            self.spoken += 1
            async for chunk in paced(clip):
                yield chunk
            ends.append(time.monotonic())
            async for chunk in paced(pause):
                yield chunk

    def table(self) -> Iterator[str]:
        """The results, line by line."""
        yield f"sessions {self.sessions}, sentences spoken {self.spoken}"
        yield f"turns answered {self.turns}, errors {len(self.errors)}"
        yield f"{'ms':42} " + " ".join(f"{f'p{percent}':>8}" for percent in PERCENTS)
        rows = {
            "end of speech → first delta": self.heard_ms,
            "decision → first delta": self.decided_ms,
            "clip sent → first delta, on this machine": self.here_ms,
        }
        for name, values in rows.items():
            figures = np.percentile(values, PERCENTS) if values else [float("nan")] * len(PERCENTS)
            yield f"{name:42} " + " ".join(f"{figure:8.0f}" for figure in figures)
        for error in sorted(set(self.errors)):
            yield f"{self.errors.count(error)} × {error}"
