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
    """One request under way in the engine; any thread may call its methods, except `report`."""

    def __init__(self, request: GenerationRequest, listener: Listener) -> None:
        self.request = request
        self.urgency = request.urgency
        self._listener = listener
        self.cancelled_s: float | None = None
        # The engine logs within this context, so that its lines carry the ids of the caller.
        self.context = contextvars.copy_context()

    def cancel(self) -> None:
        """Ask the engine to stop; it ends with `Finished("interrupted")` within one step."""
        if self.cancelled_s is None:
            self.cancelled_s = time.monotonic()

    def commit(self) -> None:
        """Make a request that was made ahead of time as urgent as any turn."""
        self.urgency = Urgency.TURN

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has cancelled it."""
        return self.cancelled_s is not None

    def report(self, event: GenerationEvent) -> None:
        """Pass an event to the listener, which must not block. Engine's thread only."""
        self._listener(event)


class GenerationStream:
    """Events of a generation as an async iterator on the loop that created it.

    Its queue needs no bound: a generation makes at most `max_tokens` deltas.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[GenerationEvent] = asyncio.Queue()

    def listener(self, event: GenerationEvent) -> None:
        """The listener for `Engine.submit`, which calls it on the engine's thread."""
        # The loop is closed where its owner was shut down in the middle of a stream.
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
