"""A voice that hums, and a speech server that does as a test says."""

import asyncio
import io
import json
import wave
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np
from aiohttp import web

from voxtral_worker.speech.voice import VOICE_RATE, Samples

# How long the voice takes to say a character.
MS_PER_CHARACTER = 50


def hum(duration_ms: float, rate: int = VOICE_RATE) -> Samples:
    """A tone of 220 Hz at half loudness, float32 [n]."""
    times = np.arange(int(rate * duration_ms / 1000)) / rate
    return (0.5 * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


class FakeVoice:
    """Hums as long as the text would take; a text with "fail" in it fails."""

    names: tuple[str, ...] = ("hum", "buzz")

    def __init__(self) -> None:
        self.said: list[tuple[str, str, float]] = []
        self.error: Exception | None = None
        # Cleared, the voice waits before it hums.
        self.may_speak = asyncio.Event()
        self.may_speak.set()
        self.stopped = 0

    async def load(self) -> None:
        pass

    async def say(self, text: str, voice: str, speed: float) -> AsyncGenerator[Samples, None]:
        self.said.append((text, voice, speed))
        if self.error is not None:
            raise self.error
        try:
            await self.may_speak.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if any(character.isalnum() for character in text):
            yield hum(MS_PER_CHARACTER * len(text) / speed)

    async def close(self) -> None:
        pass


def wav(samples: Samples, rate: int, channels: int = 1) -> bytes:
    """A wav file of 16-bit samples, the same on every channel."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())
    return out.getvalue()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeSpeechServer:
    """`POST /v1/audio/speech`; `answer` may be set by a test."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = self.hum
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> "FakeSpeechServer":
        app = web.Application()
        app.router.add_post("/v1/audio/speech", self._speech)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        return await self.answer(request)

    async def hum(self, _: web.Request) -> web.StreamResponse:
        """A tone at a rate that is not the worker's."""
        duration_ms = MS_PER_CHARACTER * len(self.asked[-1]["input"])
        return web.Response(body=wav(hum(duration_ms, 16_000), 16_000))
