"""WebSockets of all dialects: refusals before the upgrade, then frames until the close."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

from aiohttp import WSMsgType, web

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.server.access_log import CONNECTION, log_opening
from voxtral_worker.server.connection import CLOSE_TIMEOUT_S, Connection
from voxtral_worker.server.middleware import CALLER, SERVICE, SESSION_ID, count_call
from voxtral_worker.server.sessions import Conversation

# aiohttp closes the socket with 1009 on a larger frame, before the worker sees it.
MAX_PROTOCOL_BYTES = 4 << 20
# Audio that has been sent and not read waits in the buffers of the two systems. A client that sends
# a recording at full speed fills them, and its pings wait behind it: clients give up if the answer
# takes longer than their limit (20 s for the Python package `websockets`). With a buffer of so
# many bytes (Linux doubles the number) the answer comes within seconds. It still lets through
# more than a megabyte per second over a distance of 100 ms.
RECEIVE_BUFFER_BYTES = 128 << 10


async def serve_socket(
    request: web.Request,
    converse: Callable[[web.WebSocketResponse, Connection], Awaitable[None]],
    protocols: tuple[str, ...] = (),
) -> web.WebSocketResponse:
    """Serve one WebSocket until it is closed. Raises WorkerError to refuse it with a status."""
    service = request.app[SERVICE]
    socket = web.WebSocketResponse(
        max_msg_size=MAX_PROTOCOL_BYTES,
        timeout=CLOSE_TIMEOUT_S,
        protocols=protocols,
    )
    if not socket.can_prepare(request).ok:
        raise BadInput("this path is a WebSocket: send an upgrade request")
    # All that may refuse the client comes before `prepare`, while it can still get a status.
    service.require_ready()
    socket.headers.update(await count_call(request))
    if SESSION_ID in request:
        await service.shared.bring(request[SESSION_ID], request[CALLER])
    _bound_buffer(request.transport)
    await socket.prepare(request)
    metrics.connections_total.inc()
    metrics.connections_active.inc()
    connection = request[CONNECTION] = Connection(socket, request.transport)
    log_opening(request)
    try:
        await converse(socket, connection)
    finally:
        metrics.connections_active.dec()
        await connection.finished()
    return socket


def _bound_buffer(transport: asyncio.Transport | None) -> None:
    """Bound what the system holds of a connection that is read slowly."""
    line = None if transport is None else transport.get_extra_info("socket")
    if line is not None:
        with suppress(OSError):
            line.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES)


async def read(
    conversation: Conversation[Any],
    channel: str,
    socket: web.WebSocketResponse,
    connection: Connection,
) -> None:
    """Read frames until the close; the session's dialect takes each one or refuses it."""
    driver, limits = conversation.driver, conversation.limits
    async for frame in socket:
        if frame.type not in (WSMsgType.TEXT, WSMsgType.BINARY) or connection.is_closing:
            continue
        size = _bytes_of(frame.data)
        connection.received_bytes += size
        driver.session.message_count += 1
        metrics.messages_received.inc()
        try:
            item = driver.dialect.read(channel, frame.data, size, limits)
            # `take` waits while the inbox is full; meantime nothing is read from the socket.
            if not await driver.take(channel, connection, item, size):
                # A newer connection has taken the channel, or the session has ended.
                await read_until_closed(socket)
                return
        except WorkerError as error:
            driver.refuse(channel, error)
            if limits.is_ignored():
                ignored = CloseCode.LIMITS_IGNORED
                connection.close(ignored, ignored.reason)
                # Stop reading here: aiohttp itself then reads until the client has answered the
                # close. A socket that is closed with unread data is reset by the kernel, and the
                # client might never see the close code.
                return


def _bytes_of(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "surrogatepass"))


async def read_until_closed(socket: web.WebSocketResponse) -> None:
    """Read and ignore all frames until the socket is closed."""
    # aiohttp sees the client's answer to a close only while something reads.
    async for _ in socket:
        pass
