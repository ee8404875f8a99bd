"""An engine that says what a test wants, on a thread of its own, and sessions that last."""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator

from voxtral_worker.engine.conversation import Audio, Conversation
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Listener,
    Timings,
    Usage,
)
from voxtral_worker.errors import WorkerError
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.leased import LeasedSession

Say = Callable[[Conversation], "list[str] | WorkerError"]


def echo(conversation: Conversation) -> list[str] | WorkerError:
    """The words of the user, each with its space; "window n" for n samples of audio."""
    first = conversation.user.parts[0]
    if isinstance(first, Audio):
        return ["window ", str(len(first.samples))]
    return [word + " " for word in first.split()]


class SteppingEngine:
    """One thread makes one token of every open generation, then pauses for `step_s`."""

    def __init__(self, say: Say = echo, step_s: float = 0.0) -> None:
        self.requests: list[GenerationRequest] = []
        self.generations: list[Generation] = []
        self.most_at_once = 0
        self.trimmed = 0
        self._say = say
        self._step_s = step_s
        self._inbox: queue.Queue[Generation | None] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, listener: Listener) -> Generation:
        generation = Generation(request, listener)
        self.requests.append(request)
        self.generations.append(generation)
        self._inbox.put(generation)
        return generation

    def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join(5)

    def _serve(self) -> None:
        running: list[tuple[Generation, Iterator[GenerationEvent]]] = []
        while True:
            while not running or not self._inbox.empty():
                generation = self._inbox.get()
                if generation is None:
                    return
                running.append((generation, self._events(generation)))
            self.most_at_once = max(self.most_at_once, len(running))
            time.sleep(self._step_s)
            for entry in list(running):
                event = next(entry[1])
                entry[0].report(event)
                if isinstance(event, Finished | Failed):
                    running.remove(entry)

    def _events(self, generation: Generation) -> Iterator[GenerationEvent]:
        said = self._say(generation.request.conversation)
        if isinstance(said, WorkerError):
            yield Failed(said)
            return
        if self.trimmed:
            yield HistoryTrimmed(self.trimmed)
        for count, word in enumerate(said):
            if generation.is_cancelled:
                yield Finished("interrupted", Usage(7, count, 0), Timings())
                return
            yield Delta(word, (1,))
        yield Finished("stop", Usage(7, len(said), 3), Timings())


def endless(_: Conversation) -> list[str]:
    """More words than anybody waits for."""
    return ["more "] * 100_000


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread or task brings about."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.01)


class FakeLeases:
    """Sessions by number; tests open connections and delete sessions as they like."""

    def __init__(self, token: str | None = None) -> None:
        self.sessions: dict[str, int] = {}
        self.configs: list[SessionConfig] = []
        self.closed: list[tuple[str, int]] = []
        self._token = token
        self._numbers = itertools.count(1)

    async def create(self, config: SessionConfig) -> LeasedSession:
        session_id = f"s{next(self._numbers)}"
        self.configs.append(config)
        self.sessions[session_id] = 0
        return LeasedSession(session_id, self._token)

    async def exists(self, session_id: str) -> bool:
        return session_id in self.sessions

    async def open_connections(self, session_id: str) -> int:
        return self.sessions.get(session_id, 0)

    async def close(self, session_id: str, code: int) -> None:
        if self.sessions.pop(session_id, None) is not None:
            self.closed.append((session_id, code))
