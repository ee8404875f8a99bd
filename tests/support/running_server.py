"""Servers under test, with an engine that says what a test wants."""

from ipaddress import ip_network
from typing import Any

import torch

from voxtral_worker.engine.conversation import Audio, audio_in
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import (
    ArgumentsDelta,
    CallFinished,
    CallStarted,
    Delta,
    Finished,
    GenerationRequest,
    Timings,
    Usage,
)
from voxtral_worker.engine.tools import Toolbox, ToolCall
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import Speech
from voxtral_worker.turns.vad import Vad

# With this for TRUSTED_PROXIES tests count as a proxy's clients: this machine itself has no limits
# by address.
LOOPBACK = (ip_network("127.0.0.0/8"),)


class FakeEngine:
    """Answers every request with the same words at once, or holds them for a test."""

    def __init__(self) -> None:
        self.is_healthy = True
        self.attention = "gathered"
        self.running = 0
        self.waiting = 0
        self.words: tuple[str, ...] = ("You ", "said ", "so.")
        # Answers with a text that identifies the sound, instead of with `words`.
        self.names_sounds = False
        self.holds = False
        self.refuses: WorkerError | None = None
        self.requests: list[GenerationRequest] = []
        self.held: list[Generation] = []
        self.forgotten: list[str] = []
        self.window_tail = "exact"
        # Calls of tools that the next requests are answered with, before words.
        self.calls: list[tuple[ToolCall, ...]] = []
        self.checked: list[Toolbox] = []
        self.bad_tools: WorkerError | None = None

    def check_tools(self, box: Toolbox) -> None:
        self.checked.append(box)
        if self.bad_tools is not None:
            raise self.bad_tools

    def submit(self, request: GenerationRequest, listener: Any) -> Generation:
        if self.refuses is not None:
            raise self.refuses
        self.requests.append(request)
        generation = Generation(request, listener)
        if self.holds:
            self.held.append(generation)
            generation.report(Delta(self.words[0], (100,)))
        elif self.calls:
            self.call(generation, *self.calls.pop(0))
        else:
            self.finish(generation, self._answer(request))
        return generation

    def _answer(self, request: GenerationRequest) -> tuple[str, ...]:
        sounds = [part for part in request.conversation.user.parts if isinstance(part, Audio)]
        if not (self.names_sounds and sounds):
            return self.words
        return tuple(f"{sound.digest.hex()} " for sound in sounds)

    def call(self, generation: Generation, *calls: ToolCall) -> None:
        for index, call in enumerate(calls):
            generation.report(CallStarted(index, call.call_id, call.name))
            for text in (call.arguments[:3], call.arguments[3:]):
                generation.report(ArgumentsDelta(index, text))
            generation.report(CallFinished(index, call.arguments))
        generation.report(Finished("tool_calls", Usage(10, 5, 4), Timings(0.001, 0.002, 0.003)))

    def forget(self, owner: str) -> None:
        self.forgotten.append(owner)

    def finish(self, generation: Generation, words: tuple[str, ...]) -> None:
        for number, word in enumerate(words):
            generation.report(Delta(word, (100 + number,)))
        audio = any(True for _ in audio_in(generation.request.conversation))
        usage = Usage(10, len(words), 4, 7 if audio else 0)
        generation.report(Finished("stop", usage, Timings(0.001, 0.002, 0.003)))


class RunningServer:
    """A server under test, with what a client needs to reach it."""

    def __init__(self, settings: Settings, vad: Vad) -> None:
        self.settings = settings
        self.engine = FakeEngine()
        self.thread = ServerThread(settings)
        self._vad = vad
        self.thread.start()
        self.url = f"http://127.0.0.1:{settings.port}"
        self.ws_url = f"ws://127.0.0.1:{settings.port}"

    def become_ready(
        self,
        admission: Admission | None = None,
        speech: Speech | None = None,
        vad: Any = None,
    ) -> None:
        """`vad`: ears that replace the real ones; None: none do."""
        cpu = torch.device("cpu")
        loaded = LoadedModel(None, None, "fake", None, cpu, torch.float32)
        engine: Any = self.engine
        parts = Parts(engine, vad or self._vad, loaded, None, admission, speech=speech)
        self.thread.become_ready(parts)

    def stop(self) -> None:
        self.thread.stop()
