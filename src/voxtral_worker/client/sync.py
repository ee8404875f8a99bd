"""The client for programs without asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, Self, TypeVar, Unpack

from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.events import Event, ToolCall
from voxtral_worker.client.options import Options
from voxtral_worker.client.retry import Retry

Answer = TypeVar("Answer")


class Voxtral:
    """A VoxtralClient whose event loop runs in a thread of its own, for the `with` block.

    It stays connected and sends while your program is busy with an event. Any thread may send.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        retry: Retry | None = None,
        **config: Unpack[Options],
    ) -> None:
        """As VoxtralClient."""
        self._client = VoxtralClient(url, token=token, retry=retry, **config)
        self._loop = LoopThread()

    def __enter__(self) -> Self:
        self._loop.start()
        try:
            self._loop.run(self._client.__aenter__())
        except BaseException:
            self._loop.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._loop.run(self._client.__aexit__())
        finally:
            self._loop.stop()

    @property
    def session_id(self) -> str | None:
        """As VoxtralClient.session_id."""
        return self._client.session_id

    @property
    def is_connected(self) -> bool:
        """As VoxtralClient.is_connected."""
        return self._client.is_connected

    def send_audio(self, chunk: bytes) -> None:
        """As VoxtralClient.send_audio."""
        self._loop.run(self._client.send_audio(chunk))

    def send_text(self, text: str, request_id: str | None = None) -> str:
        """As VoxtralClient.send_text."""
        return self._loop.run(self._client.send_text(text, request_id))

    def end_turn(self) -> None:
        """As VoxtralClient.end_turn."""
        self._loop.run(self._client.end_turn())

    def cancel(self) -> None:
        """As VoxtralClient.cancel."""
        self._loop.run(self._client.cancel())

    def played(self, turn_id: str, played_ms: float) -> None:
        """As VoxtralClient.played."""
        self._loop.run(self._client.played(turn_id, played_ms))

    def clear_history(self) -> None:
        """As VoxtralClient.clear_history."""
        self._loop.run(self._client.clear_history())

    def update(self, **options: Unpack[Options]) -> None:
        """As VoxtralClient.update."""
        self._loop.run(self._client.update(**options))

    def send_tool_result(self, call: ToolCall, content: object, *, is_error: bool = False) -> None:
        """As VoxtralClient.send_tool_result."""
        self._loop.run(self._client.send_tool_result(call, content, is_error=is_error))

    def ping(self) -> None:
        """As VoxtralClient.ping."""
        self._loop.run(self._client.ping())

    def get_stats(self) -> None:
        """As VoxtralClient.get_stats."""
        self._loop.run(self._client.get_stats())

    def events(self) -> Iterator[Event]:
        """As VoxtralClient.events."""
        return self._loop.walk(self._client.events())

    def stream(self, chunks: Iterable[bytes]) -> Iterator[Event]:
        """As VoxtralClient.stream; `chunks` is read in a thread, so it may block."""
        return self._loop.walk(self._client.stream(_read(chunks)))

    def session(self) -> dict[str, Any]:
        """As VoxtralClient.session."""
        return self._loop.run(self._client.session())

    def speak(
        self, text: str, voice: str | None = None, response_format: str = "wav", speed: float = 1.0
    ) -> bytes:
        """As VoxtralClient.speak."""
        return self._loop.run(self._client.speak(text, voice, response_format, speed))

    def health(self) -> dict[str, Any]:
        """As VoxtralClient.health."""
        return self._loop.run(self._client.health())


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, because a program that exits within the `with` block must not hang on it.
        self._thread = threading.Thread(target=self._loop.run_forever, name="voxtral", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop and its thread."""
        # The threads that read `chunks` belong to the loop: end them before it stops.
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        """The result of a coroutine that runs on the loop; blocks."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def walk(self, events: AsyncIterator[Event]) -> Iterator[Event]:
        """Yield what an iterator of the loop yields; blocks."""
        walk = _Walk(events)
        try:
            while (event := self.run(walk.advance())) is not None:
                yield event
        finally:
            # If the caller left `with` before it closed this iterator, the loop is gone already.
            if self._thread.is_alive():
                self.run(walk.close())


class _Walk:
    """One caller's iteration over the events."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self._task: asyncio.Task[Any] | None = None

    async def advance(self) -> Event | None:
        self._task = asyncio.current_task()
        event: Event | None = await anext(self._events, None)
        return event

    async def close(self) -> None:
        # If the caller was interrupted (Ctrl-C) while it waited, the task of its last step still
        # runs the generator, which cannot be closed before that task has ended.
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._events.aclose()


async def _read(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    iterator = iter(chunks)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk
