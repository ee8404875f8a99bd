"""Sends the audio of one source, and finds the moment when all of it is answered."""

import asyncio
from collections.abc import AsyncIterable

from voxtral_worker.client.events import Stats
from voxtral_worker.client.line import Line, control

STATS_EVERY_S = 0.2


class Feed:
    """A task that sends audio, and asks for statistics once the audio has ended.

    It runs until `stop`. If the source fails, it wakes the reader of the line's messages.
    """

    def __init__(self, line: Line, chunks: AsyncIterable[bytes]) -> None:
        self._line = line
        # How many requests for statistics had been sent when the audio ended; None: it has not
        # ended yet.
        self._asked_before_end: int | None = None
        self._task = asyncio.create_task(self._run(chunks))
        self._task.add_done_callback(self._wake)

    def is_answered(self, event: Stats) -> bool:
        """Whether these statistics show that all of the audio is answered: the queue is empty.

        Statistics that were asked for before the end of the audio may not include the last turn.
        """
        return (
            self._asked_before_end is not None
            and self._line.stats_answered > self._asked_before_end
            and event.stats["queue_size"] == 0
        )

    def check(self) -> None:
        """Raise what the source has raised."""
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Stop sending."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, chunks: AsyncIterable[bytes]) -> None:
        async for chunk in chunks:
            await self._line.is_open.wait()
            await self._line.send_audio(chunk)
        await self._line.send_message(control("end_turn"))
        self._asked_before_end = self._line.stats_asked
        while True:
            await self._line.is_open.wait()
            await self._line.ask("get_stats")
            await asyncio.sleep(STATS_EVERY_S)

    def _wake(self, task: "asyncio.Task[None]") -> None:
        # The reader may be waiting for a message of the worker: wake it, so that it sees the error.
        if not task.cancelled():
            self._line.interrupt()
