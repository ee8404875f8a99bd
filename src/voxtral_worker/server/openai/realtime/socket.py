"""The realtime socket from its upgrade to its close."""

import json
from functools import partial

from aiohttp import web

from voxtral_worker.errors import BadInput, TooLarge, WorkerError
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Item
from voxtral_worker.server.middleware import SERVICE
from voxtral_worker.server.openai.models import check_model, model_id
from voxtral_worker.server.openai.options import Options
from voxtral_worker.server.openai.realtime.client_event import event_id_of, read_event
from voxtral_worker.server.openai.realtime.driver import RealtimeDriver, error_event
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.server.service import CLOSE_DONE, Service
from voxtral_worker.server.sockets import read, read_until_closed, serve_socket
from voxtral_worker.sessions.effects import LineName

# A second of audio at the limit of bytes a second, in base64, and more.
MAX_EVENT_BYTES = 2 << 20
PROTOCOL = "realtime"
CLOSE_TRY_LATER = 1013


async def realtime_socket(request: web.Request) -> web.WebSocketResponse:
    """A session of its own, which ends with the connection."""
    service = request.app[SERVICE]
    Options(request.query).only(("model", "token"), unsupported_keys=("intent", "call_id"))
    asked = request.query.get("model")
    model = model_id(service) if asked is None else check_model(service, asked)
    service.require_room()

    async def converse(socket: web.WebSocketResponse, connection: Connection) -> None:
        await _converse(service, model, socket, connection)

    return await serve_socket(request, converse, (PROTOCOL,))


async def _converse(
    service: Service, model: str, socket: web.WebSocketResponse, connection: Connection
) -> None:
    options = SessionOptions()
    make = partial(
        RealtimeDriver,
        model=model,
        options=options,
        max_turn_s=service.settings.max_turn_seconds,
    )
    try:
        session = service.create(options.config(), make)
    except WorkerError as error:
        # The last place went while the socket was being opened.
        connection.send(json.dumps(error_event(error, None)))
        connection.close(CLOSE_TRY_LATER, "try again later")
        await read_until_closed(socket)
        return
    driver = service.driver(session.session_id)
    assert isinstance(driver, RealtimeDriver)
    driver.attach(LineName.AUDIO, connection)
    try:
        await read(service, driver, LineName.AUDIO, socket, connection, _checked)
    finally:
        driver.detach(LineName.AUDIO, connection)
        if service.has(session.session_id):
            await service.end(session.session_id, CLOSE_DONE, "the connection is closed")


def _checked(
    service: Service, driver: RealtimeDriver, _: LineName, data: str | bytes, size: int
) -> Item:
    driver.reading_id = None
    if isinstance(data, bytes):
        raise BadInput("events are texts of JSON; audio goes into input_audio_buffer.append")
    if size > MAX_EVENT_BYTES:
        raise TooLarge(f"an event may have at most {MAX_EVENT_BYTES} bytes, this one has {size}")
    value, driver.reading_id = event_id_of(data)
    event = read_event(value, driver.reading_id)
    limits = service.limits(driver.session.session_id)
    match event.kind:
        case "input_audio_buffer.append":
            limits.check_audio(len(event.audio))
        case "conversation.item.create":
            # It may hold audio as well.
            limits.check_audio(size)
        case "response.create":
            limits.check_text()
    driver.note_activity()
    return event
