"""A server in this process with the embedded model, real ears and a real engine."""

import threading
from typing import Any

import soxr
from openai import AsyncOpenAI

from tests.support.ports import free_port
from tests.support.settings import changed
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.model import load_model
from voxtral_worker.engine.request import GenerationEvent, GenerationRequest
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.settings import EMBEDDED_MODEL, TURN_MODEL, Settings
from voxtral_worker.speech.speech import Speech
from voxtral_worker.turns.completeness import Completeness, load_network
from voxtral_worker.turns.vad import Vad

MODEL = "voxtral-tiny"
CLIPS = EMBEDDED_MODEL / "clips"
KEY = "sk-for-tests"
WAIT_S = 60.0


class HeldEngine:
    """The real engine; while it holds, what it says is kept back after one word."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.last: Generation | None = None
        self.holds = False
        self.has_begun = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: GenerationRequest, listener: Any) -> Generation:
        holds, said = self.holds, 0

        def hear(event: GenerationEvent) -> None:
            nonlocal said
            said += 1
            if not holds or said == 1:
                listener(event)
            self.has_begun.set()

        generation = self._engine.submit(request, hear)
        self.last = generation
        return generation


class EmbeddedServer:
    """Listens from the start; keys are needed. It has a voice where it is given one."""

    def __init__(self, speech: Speech | None = None, **changes: Any) -> None:
        defaults: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": free_port(),
            "model_id": str(EMBEDDED_MODEL),
            "device": "cpu",
            "rate_limit_enabled": False,
            "api_keys": (KEY,),
        }
        settings = changed(Settings(), **{**defaults, **changes})
        self.url = f"http://127.0.0.1:{settings.port}"
        self.ws_url = f"ws://127.0.0.1:{settings.port}"
        loaded = load_model(settings)
        self._vad = Vad()
        self._vad.start()
        self._scorer = Completeness(load_network(TURN_MODEL))
        self._scorer.start()
        self.engine = HeldEngine(Engine(EngineCore(loaded, settings)))
        self.engine.start()
        self.thread = ServerThread(settings)
        self.thread.start()
        if speech is not None:
            speech.start()
        self._speech = speech
        parts = Parts(
            self.engine,  # type: ignore[arg-type]
            self._vad,
            loaded,
            completeness=self._scorer,
            speech=speech,
        )
        self.thread.become_ready(parts)

    def client(self, key: str = KEY) -> AsyncOpenAI:
        return AsyncOpenAI(
            api_key=key,
            base_url=f"{self.url}/v1",
            websocket_base_url=f"{self.ws_url}/v1",
            max_retries=0,
            timeout=WAIT_S,
        )

    def stop(self) -> None:
        self.thread.stop()
        self.engine.stop()
        if self._speech is not None:
            self._speech.stop()
        self.engine.last = None
        self._vad.stop()
        self._scorer.stop()


def clip(name: str) -> bytes:
    """A spoken sentence as a wav file."""
    return (CLIPS / f"{name}.wav").read_bytes()


def spoken(name: str, rate: int = 24_000) -> bytes:
    """The same as 16-bit samples."""
    samples = read_clip(clip(name), max_seconds=60)
    resampled = soxr.resample(samples, 16_000, rate).clip(-1, 1)
    return bytes((resampled * 32767).astype("<i2").tobytes())


def silence(seconds: float, rate: int = 24_000) -> bytes:
    """Nothing, as 16-bit samples."""
    return bytes(2 * int(seconds * rate))
