"""The two WebSockets of a session in the documented dialect."""

import asyncio
import time
from typing import Any, TypeAlias

from aiohttp import web

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import WorkerError
from voxtral_worker.json_text import read_json
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.middleware import CALLER, SERVICE, SESSION_ID
from voxtral_worker.server.native.dialect import CONTROL, NativeDialect, Replay, parse_last_seq
from voxtral_worker.server.native.messages import message_of, to_wire
from voxtral_worker.server.sessions import Conversation
from voxtral_worker.server.sockets import read, read_until_closed, serve_socket
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.events import Refused

Native: TypeAlias = Conversation[NativeDialect]

_CLOSE_CODES = {
    "INVALID_REQUEST": CloseCode.INVALID,
    "SESSION_NOT_FOUND": CloseCode.NOT_FOUND,
}


async def audio_socket(request: web.Request) -> web.WebSocketResponse:
    """The socket for audio and texts. An address without a session creates one."""
    return await _serve(request, AUDIO)


async def control_socket(request: web.Request) -> web.WebSocketResponse:
    """The socket for texts, config and controls. An address without a session creates one."""
    return await _serve(request, CONTROL)


async def _serve(request: web.Request, channel: str) -> web.WebSocketResponse:
    # Before the upgrade, so that a bad number gets status 400.
    last_seq = parse_last_seq(request.query.get("last_seq"))

    async def converse(socket: web.WebSocketResponse, connection: Connection) -> None:
        try:
            conversation, introduction = await _conversation_of(request)
        except WorkerError as error:
            refused = message_of(Refused(error))
            assert refused is not None
            connection.send(to_wire(refused, time.time()))
            connection.close(_CLOSE_CODES.get(error.code, CloseCode.TRY_LATER), error.code)
            metrics.errors_sent.labels(error.code).inc()
            await read_until_closed(socket)
            return
        conversation.dialect.attach(
            channel,
            connection,
            waits_for_replay=last_seq is not None,
            introduction=introduction,
        )
        driver = conversation.driver
        # The replay goes through the inbox, so that it comes after what was sent to the session
        # over the lost connection.
        if last_seq is not None:
            await driver.take(channel, connection, Replay(connection, last_seq))
        every_s = request.app[SERVICE].settings.heartbeat_interval_seconds
        heart = asyncio.create_task(_beat(every_s, conversation.dialect, channel, connection))
        try:
            await read(conversation, channel, socket, connection)
        finally:
            heart.cancel()
            driver.detach(channel, connection)

    if SESSION_ID not in request:
        # Refuse before the upgrade, while an HTTP status can still say why.
        request.app[SERVICE].require_room(request[CALLER])
    return await serve_socket(request, converse)


async def _conversation_of(request: web.Request) -> tuple[Native, dict[str, Any]]:
    """The session in the address; or a new one, with what its client must know of it.

    Behind a load balancer, a session that a REST call has created may be on another worker than
    the one that the socket reaches. A session that the socket itself creates never is. Raises
    SessionNotFound, BadInput for its config, or AtCapacity.
    """
    service = request.app[SERVICE]
    session_id = request.get(SESSION_ID)
    if session_id is None:
        config = _config_of(request)
        await require_callable(service.require_ready().engine, config.toolbox)
        conversation = service.create(config, request[CALLER])
        await service.shared.publish(conversation.session_id)
        return conversation, service.introduce(conversation.session_id)
    return service.sessions.speaking(session_id, NativeDialect), {}


def _config_of(request: web.Request) -> SessionConfig:
    text = request.query.get("config", "")
    if not text.strip():
        return SessionConfig()
    return SessionConfig().updated(read_json(text, "config"))


async def _beat(
    every_s: float, dialect: NativeDialect, channel: str, connection: Connection
) -> None:
    while True:
        await asyncio.sleep(every_s)
        dialect.heartbeat(channel, connection)
