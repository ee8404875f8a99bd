"""The realtime socket from its upgrade to its close."""

from functools import partial
from typing import Annotated, Any, Literal

from aiohttp import web

from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.channels import AUDIO
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.gate.access import Caller
from voxtral_worker.server.middleware import CALLER, SERVICE
from voxtral_worker.server.openai.models import ModelNames, check_model, model_names
from voxtral_worker.server.openai.parameters import (
    Parameters,
    anything,
    ignored,
    read_parameters,
    unsupported_key,
)
from voxtral_worker.server.openai.realtime.dialect import RealtimeDialect
from voxtral_worker.server.openai.realtime.refusal import PROTOCOL, refuse
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.server.service import Service
from voxtral_worker.server.sockets import read, serve_socket
from voxtral_worker.values.may import CHOICE


class _Query(Parameters):
    """The query of the socket's address."""

    extras = {"token": ignored, "call_id": unsupported_key()}
    model: Annotated[Any, anything({"type": "string"})] = None
    intent: Annotated[Literal["conversation", "transcription"], CHOICE] = "conversation"


async def realtime_socket(request: web.Request) -> web.WebSocketResponse:
    """Serve a session that ends with its connection."""
    service = request.app[SERVICE]
    query = read_parameters(_Query, dict(request.query))
    options = SessionOptions()
    if query.intent == "transcription":
        options = options.transcribing()
    if query.model is not None:
        check_model(service, query.model)
    names = model_names(service)
    service.require_room(request[CALLER])

    async def converse(socket: web.WebSocketResponse, connection: Connection) -> None:
        await _converse(service, names, options, request[CALLER], socket, connection)

    return await serve_socket(request, converse, (PROTOCOL,))


async def _converse(
    service: Service,
    names: ModelNames,
    options: SessionOptions,
    caller: Caller,
    socket: web.WebSocketResponse,
    connection: Connection,
) -> None:
    speak = partial(
        RealtimeDialect,
        names=names,
        options=options,
        max_turn_s=service.settings.max_turn_seconds,
    )
    try:
        conversation = service.create_in(speak, options.config(), caller)
    except WorkerError as error:
        # Another session took the last place while the socket was being opened.
        await refuse(socket, connection, error)
        return
    conversation.dialect.attach(connection)
    try:
        await read(conversation, AUDIO, socket, connection)
    finally:
        conversation.driver.detach(AUDIO, connection)
        session_id = conversation.session_id
        if service.sessions.has(session_id):
            await service.end(session_id, CloseCode.DONE, "the connection is closed")
