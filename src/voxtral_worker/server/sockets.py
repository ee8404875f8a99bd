"""The two WebSockets of a session: refusals before the upgrade, then frames until close."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import WSMsgType, web

from voxtral_worker import metrics
from voxtral_worker.errors import BadInput, RateLimited, SessionNotFound, TooLarge, WorkerError
from voxtral_worker.server.access_log import CONNECTION, log_opening
from voxtral_worker.server.connection import CLOSE_TIMEOUT_S, Connection
from voxtral_worker.server.driver import Attach, Item, SessionDriver, parse_last_seq
from voxtral_worker.server.middleware import SERVICE, count_call
from voxtral_worker.server.service import Service
from voxtral_worker.sessions.effects import LineName
from voxtral_worker.sessions.messages import (
    ClientMessage,
    ErrorMessage,
    TextInput,
    asked_as,
    parse,
    to_wire,
)

D = TypeVar("D", bound=SessionDriver)

MAX_FRAME_BYTES = 1 << 20
# Beyond this the protocol layer closes with 1009 before anybody sees the frame.
MAX_PROTOCOL_BYTES = 4 << 20
PROTOCOL_PING_S = 20.0
CLOSE_NOT_FOUND = 4404
CLOSE_LIMITS_IGNORED = 4429


async def audio_socket(request: web.Request) -> web.WebSocketResponse:
    """Audio and texts of a session."""
    return await _serve(request, LineName.AUDIO)


async def control_socket(request: web.Request) -> web.WebSocketResponse:
    """Texts, config and controls of a session."""
    return await _serve(request, LineName.CONTROL)


async def _serve(request: web.Request, line: LineName) -> web.WebSocketResponse:
    last_seq = parse_last_seq(request.query.get("last_seq"))

    async def converse(socket: web.WebSocketResponse, connection: Connection) -> None:
        await _converse(request, line, socket, connection, last_seq)

    return await serve_socket(request, converse)


async def serve_socket(
    request: web.Request,
    converse: Callable[[web.WebSocketResponse, Connection], Awaitable[None]],
    protocols: tuple[str, ...] = (),
) -> web.WebSocketResponse:
    """One WebSocket from its refusals to its close. Raises what refuses it."""
    service = request.app[SERVICE]
    socket = web.WebSocketResponse(
        max_msg_size=MAX_PROTOCOL_BYTES,
        heartbeat=PROTOCOL_PING_S,
        timeout=CLOSE_TIMEOUT_S,
        protocols=protocols,
    )
    if not socket.can_prepare(request).ok:
        raise BadInput("this path is a WebSocket: send an upgrade request")
    service.require_ready()
    socket.headers.update(await count_call(request, "connections"))
    session_id = request.match_info.get("session_id")
    if session_id is not None:
        await service.bring(session_id)
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


async def _converse(
    request: web.Request,
    line: LineName,
    socket: web.WebSocketResponse,
    connection: Connection,
    last_seq: int | None,
) -> None:
    service = request.app[SERVICE]
    try:
        driver = service.driver(request.match_info["session_id"])
        if not driver.is_open_to_sockets:
            raise SessionNotFound("session not found: it is spoken to in another dialect")
    except SessionNotFound as error:
        connection.send(to_wire(ErrorMessage(error), time.time()))
        connection.close(CLOSE_NOT_FOUND, "session not found")
        metrics.errors_sent.labels(error.code).inc()
        await read_until_closed(socket)
        return
    driver.attach(line, connection, waits_for_replay=last_seq is not None)
    if last_seq is not None:
        await driver.take(line, connection, Attach(connection, last_seq))
    heart = asyncio.create_task(_beat(service, driver, line, connection))
    try:
        await read(service, driver, line, socket, connection, _checked)
    finally:
        heart.cancel()
        driver.detach(line, connection)


async def read(
    service: Service,
    driver: D,
    line: LineName,
    socket: web.WebSocketResponse,
    connection: Connection,
    check: Callable[[Service, D, LineName, str | bytes, int], Item],
) -> None:
    """Frames until close; `check` reads each one, or raises what is wrong with it."""
    async for frame in socket:
        if frame.type not in (WSMsgType.TEXT, WSMsgType.BINARY) or connection.is_closing:
            continue
        size = _bytes_of(frame.data)
        connection.received_bytes += size
        driver.session.message_count += 1
        metrics.messages_received.inc()
        try:
            item = check(service, driver, line, frame.data, size)
            if not await driver.take(line, connection, item):
                await read_until_closed(socket)
                return
        except SessionNotFound:
            continue
        except WorkerError as error:
            driver.refuse(line, error)
            if not isinstance(error, RateLimited):
                continue
            if service.limits(driver.session.session_id).is_ignored():
                connection.close(CLOSE_LIMITS_IGNORED, "limits ignored for too long")
                # The library reads on until the client has answered the close, unless somebody
                # else reads; a socket closed over what it has not read is reset, and the
                # client might never see why.
                return


def _bytes_of(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "surrogatepass"))


def _checked(
    service: Service, driver: SessionDriver, line: LineName, data: str | bytes, size: int
) -> bytes | ClientMessage:
    session = driver.session
    if size > MAX_FRAME_BYTES:
        raise TooLarge(f"a frame may have at most {MAX_FRAME_BYTES} bytes, this one has {size}")
    if isinstance(data, bytes):
        if line is LineName.CONTROL:
            raise BadInput("the control connection takes no audio")
        service.limits(session.session_id).check_audio(size)
        session.last_activity_s = time.monotonic()
        return data
    message = parse(data)
    if isinstance(message, TextInput):
        with asked_as(message.request_id):
            service.limits(session.session_id).check_text()
    session.last_activity_s = time.monotonic()
    return message


async def _beat(
    service: Service, driver: SessionDriver, line: LineName, connection: Connection
) -> None:
    while True:
        await asyncio.sleep(service.settings.heartbeat_interval_seconds)
        driver.heartbeat(line, connection)


async def read_until_closed(socket: web.WebSocketResponse) -> None:
    """Take no notice of what still comes."""
    # Only while reading does the library see the client's answer to a close.
    async for _ in socket:
        pass
