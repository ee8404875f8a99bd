"""Sends the refusal of a realtime socket as an event on the socket.

Clients do not show the body of an HTTP response that refuses an upgrade, and browsers do not even
show its status.
"""

import json
import math

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.access_log import CONNECTION
from voxtral_worker.server.connection import CLOSE_TIMEOUT_S, Connection
from voxtral_worker.server.middleware import limits_of
from voxtral_worker.server.openai.errors import error_code
from voxtral_worker.server.openai.realtime.reporter import error_event
from voxtral_worker.server.sockets import read_until_closed

PATH = "/v1/realtime"
PROTOCOL = "realtime"
# Messages of a refused client are not used.
MAX_REFUSED_BYTES = 1 << 16


@web.middleware
async def tell_on_socket(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Upgrade a refused request for the realtime socket, send the error, and close."""
    try:
        return await handler(request)
    except WorkerError as error:
        socket = web.WebSocketResponse(
            protocols=(PROTOCOL,), timeout=CLOSE_TIMEOUT_S, max_msg_size=MAX_REFUSED_BYTES
        )
        is_opening = request.path == PATH and CONNECTION not in request
        if not is_opening or not socket.can_prepare(request).ok:
            raise
        metrics.refusals.labels(error.code).inc()
        socket.headers.update(await limits_of(request))
        if error.retry_after_s is not None:
            socket.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after_s)))
        await socket.prepare(request)
        connection = request[CONNECTION] = Connection(socket, request.transport)
        try:
            await refuse(socket, connection, error)
        finally:
            await connection.finished()
        return socket


async def refuse(socket: web.WebSocketResponse, connection: Connection, error: WorkerError) -> None:
    """Send an error on an open socket, and close it."""
    connection.send(json.dumps(error_event(error, None)))
    connection.close(CloseCode.POLICY, error_code(error) or "invalid_request")
    await read_until_closed(socket)
