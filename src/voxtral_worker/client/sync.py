"""The client for programs that do not use asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, Self, TypeVar

from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.events import Event

Answer = TypeVar("Answer")


class Voxtral:
    """A VoxtralClient whose loop runs in a thread of its own, between `with` and its end.

    It sends and stays connected while the caller is busy with an event.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._client = VoxtralClient(url, **options)
        self._loop = asyncio.new_event_loop()
        # A daemon, as a program that ends in the middle must not wait for its own thread.
        self._thread = threading.Thread(target=self._loop.run_forever, name="voxtral", daemon=True)
        self._step: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._client.__aexit__())
        finally:
            self._stop()

    def stream(self, chunks: Iterable[bytes]) -> Iterator[Event]:
        """As VoxtralClient.stream; `chunks` is read in a thread, and may wait."""
        events = self._client.stream(_read(chunks))
        try:
            while (event := self._run(self._advance(events))) is not None:
                yield event
        finally:
            self._run(self._close(events))

    def health(self) -> dict[str, Any]:
        """As VoxtralClient.health."""
        return self._run(self._client.health())

    async def _advance(self, events: AsyncIterator[Event]) -> Event | None:
        self._step = asyncio.current_task()
        return await anext(events, None)

    async def _close(self, events: Any) -> None:
        # A caller that was interrupted has left a step behind, which holds the generator.
        if self._step is not None:
            self._step.cancel()
            await asyncio.wait([self._step])
        await events.aclose()

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop(self) -> None:
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _read(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    iterator = iter(chunks)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk
