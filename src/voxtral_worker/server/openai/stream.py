"""Server-sent events, and work that ends when its client is gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from voxtral_worker.errors import WorkerError
from voxtral_worker.server.middleware import LIMITS, origin_headers
from voxtral_worker.server.openai.errors import error_object

T = TypeVar("T")
S = TypeVar("S")

WRITE_TIMEOUT_S = 30.0
LOOK_S = 0.1
CLIENT_CLOSED_REQUEST = 499


class ClientGone(Exception):
    """The client has left, or does not read."""


class ByteStream:
    """Begins with its first bytes, so that an error before them still has a status."""

    def __init__(self, request: web.Request, content_type: str) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={
                "Content-Type": content_type,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **request.get(LIMITS, {}),
                **origin_headers(request),
            }
        )

    @property
    def has_begun(self) -> bool:
        """Whether the status is sent."""
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Send bytes; none begin nothing. Raises ClientGone."""
        if not data:
            return
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                if not self.has_begun:
                    await self.response.prepare(self._request)
                await self.response.write(data)
        except (ConnectionError, TimeoutError) as error:
            raise ClientGone from error


class EventStream:
    """Begins with its first event, so that an error before it still has a status."""

    def __init__(self, request: web.Request) -> None:
        self._bytes = ByteStream(request, "text/event-stream; charset=utf-8")
        self.response = self._bytes.response

    @property
    def has_begun(self) -> bool:
        """Whether the status is sent."""
        return self._bytes.has_begun

    async def send(self, event: dict[str, Any]) -> None:
        """One event. Raises ClientGone."""
        await self._write(json.dumps(event, ensure_ascii=False))

    @contextlib.asynccontextmanager
    async def telling_errors(self) -> AsyncIterator[None]:
        """Within it an error in mid-stream is an event; one before the first event is raised.

        Raises ClientGone.
        """
        try:
            yield
        except WorkerError as error:
            if not self.has_begun:
                raise
            await self.send({"error": error_object(error)})

    async def done(self) -> None:
        """What OpenAI's chat streams end with. Raises ClientGone."""
        await self._write("[DONE]")

    async def _write(self, data: str) -> None:
        await self._bytes.write(f"data: {data}\n\n".encode())


async def relay(
    work: Callable[[Callable[[S], None]], Coroutine[Any, Any, T]],
    hear: Callable[[S], Awaitable[None]],
) -> T:
    """Do work that says words, and pass them on as they come; ends with the work's result.

    However this ends, the work has ended too.
    """
    # Not bounded by itself: a generation says at most `max_tokens` words.
    said: asyncio.Queue[S | None] = asyncio.Queue()
    task = asyncio.create_task(work(said.put_nowait))
    task.add_done_callback(lambda _: said.put_nowait(None))
    try:
        while (text := await said.get()) is not None:
            await hear(text)
        return await task
    finally:
        await _end(task)


async def while_connected(
    request: web.Request, work: Coroutine[Any, Any, web.StreamResponse]
) -> web.StreamResponse:
    """The response of `work`, which is cancelled once its client has gone."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=LOOK_S)
            if request.transport is None or request.transport.is_closing():
                raise ClientGone
        return await task
    except ClientGone:
        return web.Response(status=CLIENT_CLOSED_REQUEST)
    finally:
        await _end(task)


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        # The client has the error, or is gone.
        task.exception()
