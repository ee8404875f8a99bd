"""The caller's handle on a response being made.

The engine reports events on its own thread; `GenerationStream` carries them to the
caller's event loop. After `Finished` or `Failed` nothing follows.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator

from voxtral_worker.engine.request import (
    ArgumentsDelta,
    CallEvent,
    CallFinished,
    CallStarted,
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Listener,
    Urgency,
)


class Generation:
    """One request under way in the engine; its methods but `report` may be called anywhere."""

    def __init__(self, request: GenerationRequest, listener: Listener) -> None:
        self.request = request
        self.urgency = request.urgency
        self._listener = listener
        self.cancelled_s: float | None = None
        # Lines that the engine logs about it carry the ids of whoever asked.
        self.context = contextvars.copy_context()

    def cancel(self) -> None:
        """Ask the engine to stop; it ends with `Finished("interrupted")` within one step."""
        if self.cancelled_s is None:
            self.cancelled_s = time.monotonic()

    def commit(self) -> None:
        """What was asked for ahead of time is wanted now: as urgent as any turn."""
        self.urgency = Urgency.TURN

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked for an end."""
        return self.cancelled_s is not None

    def report(self, event: GenerationEvent) -> None:
        """Engine thread only: tell the listener, which must not block."""
        self._listener(event)


class GenerationStream:
    """Events of a generation as an async iterator on the loop that created it.

    Not bounded by itself: a generation makes at most `max_tokens` deltas.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[GenerationEvent] = asyncio.Queue()

    def listener(self, event: GenerationEvent) -> None:
        """Hand this to the engine; called on the engine's thread."""
        # The loop may be gone when its owner is shut down in mid-stream.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __aiter__(self) -> AsyncIterator[Delta | CallEvent | Finished]:
        """Deltas, calls and, last, `Finished`. Raises the WorkerError of a failed generation."""
        while True:
            event = await self._events.get()
            match event:
                case Failed(error):
                    raise error
                case Finished():
                    yield event
                    return
                case Delta() | CallStarted() | ArgumentsDelta() | CallFinished():
                    yield event
