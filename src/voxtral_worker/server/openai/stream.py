"""Server-sent events, and work that is cancelled when the client has gone."""

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
    """The client closed the connection, or does not read."""


class ByteStream:
    """Sends bytes. The response begins with the first ones: until then an error has its status."""

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
        """Whether the status was sent."""
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Send bytes. Empty bytes do not begin the response. Raises ClientGone."""
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
    """Sends events. The response begins with the first one: until then an error has its status."""

    def __init__(self, request: web.Request) -> None:
        self._bytes = ByteStream(request, "text/event-stream; charset=utf-8")
        self.response = self._bytes.response

    @property
    def has_begun(self) -> bool:
        """Whether the status was sent."""
        return self._bytes.has_begun

    async def send(self, event: dict[str, Any]) -> None:
        """Send one event. Raises ClientGone."""
        await self._write(json.dumps(event, ensure_ascii=False))

    @contextlib.asynccontextmanager
    async def telling_errors(self) -> AsyncIterator[None]:
        """Send an error of the `with` block as an event; before the first event, raise it.

        Raises ClientGone.
        """
        try:
            yield
        except WorkerError as error:
            if not self.has_begun:
                raise
            await self.send({"error": error_object(error)})

    async def done(self) -> None:
        """Send the end of a chat stream, `[DONE]`. Raises ClientGone."""
        await self._write("[DONE]")

    async def _write(self, data: str) -> None:
        await self._bytes.write(f"data: {data}\n\n".encode())


async def relay(
    work: Callable[[Callable[[S], None]], Coroutine[Any, Any, T]],
    hear: Callable[[S], Awaitable[None]],
) -> T:
    """Run `work`, which reports pieces, and give each one to `hear`. Returns its result.

    However this ends, the work has ended too.
    """
    # This queue has no limit of its own: `max_tokens` limits what a generation puts in.
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
    """Return the response of `work`. Cancel it when the client has gone."""
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
        # The caller got the error, or has gone.
        task.exception()
