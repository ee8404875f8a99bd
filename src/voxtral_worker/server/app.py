"""The routes of the server, and its background tasks."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import hdrs, web

from voxtral_worker import metrics
from voxtral_worker.running_time import running_s
from voxtral_worker.server import rest
from voxtral_worker.server.access_log import name_lines, tell_request_id
from voxtral_worker.server.gate.connections import note_first_request
from voxtral_worker.server.middleware import (
    SERVICE,
    allow_origins,
    check_access,
    refuse_compressed,
    tell_errors,
)
from voxtral_worker.server.native import socket as native
from voxtral_worker.server.openai.calls import Calls
from voxtral_worker.server.openai.realtime.refusal import tell_on_socket
from voxtral_worker.server.openai.realtime.socket import realtime_socket
from voxtral_worker.server.service import Service
from voxtral_worker.settings import EMBEDDED_MODEL
from voxtral_worker.supervision import supervised

MAX_BODY_BYTES = 1 << 20
CONSOLE_HEADERS = {
    # After an update, a browser must not run old cached modules with the new page.
    "Cache-Control": "no-cache",
    # The page asks for a key and for the microphone, so no other page may embed it. The page's own
    # meta tag limits what it may load.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# How often the delay of the event loop is measured.
WATCH_S = 0.25
# The pattern excludes "create", so that GET /session/create is 405 and not an unknown session.
SESSION_PATH = "/session/{session_id:(?!create$)[^{}/]+}"
CONSOLE = Path(__file__).parents[1] / "console"
# The JavaScript client. The console uses it, and pages of allowed origins may load it.
BROWSER_CLIENT = Path(__file__).parents[1] / "browser"
# Recordings for users without a microphone. A package that is installed without the repository
# does not have this folder.
CLIPS = EMBEDDED_MODEL / "clips"


def make_app(service: Service) -> web.Application:
    """The whole API as one application."""
    app = web.Application(
        # The first one is outermost. `allow_origins` is outside `tell_errors`, so that pages can
        # read errors too; `tell_on_socket` is inside, and takes the errors of sockets first.
        middlewares=[
            note_first_request,
            name_lines,
            allow_origins,
            tell_errors,
            tell_on_socket,
            refuse_compressed,
            check_access,
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    app[SERVICE] = service
    app.add_routes(
        [
            web.get("/ping", rest.ping),
            web.get("/health", rest.get_health),
            web.get("/metrics", rest.get_metrics),
            web.get("/openapi.json", rest.get_openapi),
            web.get("/asyncapi.json", rest.get_asyncapi),
            web.post("/session/create", rest.create_session),
            web.get(SESSION_PATH, rest.get_session),
            web.delete(SESSION_PATH, rest.delete_session),
            web.get("/ws/audio", native.audio_socket, allow_head=False),
            web.get("/ws/control", native.control_socket, allow_head=False),
            web.get("/ws/audio/{session_id}", native.audio_socket, allow_head=False),
            web.get("/ws/control/{session_id}", native.control_socket, allow_head=False),
            *Calls(service).routes(),
            web.get("/v1/realtime", realtime_socket, allow_head=False),
            web.get("/", _console_page),
            web.get("/docs", _docs_page),
            *([web.static("/console/clips/", CLIPS)] if CLIPS.is_dir() else []),
            web.static("/console/", CONSOLE),
            web.static("/client/", BROWSER_CLIENT),
        ]
    )
    app.on_response_prepare.append(tell_request_id)
    app.on_response_prepare.append(_guard_console)
    app.on_response_prepare.append(_name_server)
    app.cleanup_ctx.append(_keep_house)
    return app


def make_ping_app(service: Service) -> web.Application:
    """`GET /ping` alone, for a separate health port."""
    app = web.Application()
    app[SERVICE] = service
    app.add_routes([web.get("/ping", rest.ping)])
    app.on_response_prepare.append(tell_request_id)
    return app


async def _console_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(CONSOLE / "index.html")


async def _docs_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(CONSOLE / "docs.html")


async def _guard_console(request: web.Request, response: web.StreamResponse) -> None:
    if request.path in ("/", "/docs") or request.path.startswith(("/console/", "/client/")):
        response.headers.update(CONSOLE_HEADERS)


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    # aiohttp's own header names its version, which helps only attackers.
    response.headers[hdrs.SERVER] = "voxtral-worker"


async def _keep_house(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    tasks = [
        supervised("sweep", service.sweep),
        supervised("session keeper", service.shared.keep),
        supervised("event-loop lag", _watch_loop),
    ]
    yield
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await service.close()


async def _watch_loop() -> None:
    """Measure the delay of the event loop and count its tasks, until cancelled."""
    while True:
        # A clock that is not read often enough stands still, and other readers may be too slow.
        running_s()
        before_s = time.monotonic()
        await asyncio.sleep(WATCH_S)
        metrics.event_loop_lag.observe(max(0.0, time.monotonic() - before_s - WATCH_S))
        metrics.event_loop_tasks.set(len(asyncio.all_tasks()))
