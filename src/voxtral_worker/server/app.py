"""The routes of the server, and what runs beside them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from voxtral_worker import metrics
from voxtral_worker.server import rest, sockets
from voxtral_worker.server.access_log import name_lines, tell_request_id
from voxtral_worker.server.middleware import SERVICE, allow_origins, check_access, tell_errors
from voxtral_worker.server.openai.calls import Calls
from voxtral_worker.server.openai.realtime.socket import realtime_socket
from voxtral_worker.server.service import Service
from voxtral_worker.settings import EMBEDDED_MODEL

MAX_BODY_BYTES = 1 << 20
WATCH_S = 0.25
# A session cannot be called "create": with another verb than POST that path is 405.
SESSION_PATH = "/session/{session_id:(?!create$)[^{}/]+}"
CONSOLE = Path(__file__).parent / "console"
# For those without a microphone; not there where the package is installed without its folder.
CLIPS = EMBEDDED_MODEL / "clips"


def make_app(service: Service) -> web.Application:
    """The whole API on one application."""
    app = web.Application(
        middlewares=[name_lines, allow_origins, tell_errors, check_access],
        client_max_size=MAX_BODY_BYTES,
    )
    app[SERVICE] = service
    app.add_routes(
        [
            web.get("/ping", rest.ping),
            web.get("/health", rest.get_health),
            web.get("/metrics", rest.get_metrics),
            web.get("/openapi.json", rest.get_openapi),
            web.post("/session/create", rest.create_session),
            web.get(SESSION_PATH, rest.get_session),
            web.delete(SESSION_PATH, rest.delete_session),
            web.get("/ws/audio/{session_id}", sockets.audio_socket, allow_head=False),
            web.get("/ws/control/{session_id}", sockets.control_socket, allow_head=False),
            *Calls(service).routes(),
            web.get("/v1/realtime", realtime_socket, allow_head=False),
            web.get("/", _console_page),
            *([web.static("/console/clips/", CLIPS)] if CLIPS.is_dir() else []),
            web.static("/console/", CONSOLE),
        ]
    )
    app.on_response_prepare.append(tell_request_id)
    app.on_response_prepare.append(_revalidate_console)
    app.cleanup_ctx.append(_keep_house)
    return app


def make_ping_app(service: Service) -> web.Application:
    """`GET /ping` alone, for a health port of its own."""
    app = web.Application()
    app[SERVICE] = service
    app.add_routes([web.get("/ping", rest.ping)])
    app.on_response_prepare.append(tell_request_id)
    return app


async def _console_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(CONSOLE / "index.html")


async def _revalidate_console(request: web.Request, response: web.StreamResponse) -> None:
    # A browser that kept yesterday's modules would run them with today's page.
    if request.path == "/" or request.path.startswith("/console/"):
        response.headers["Cache-Control"] = "no-cache"


async def _keep_house(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    tasks = [
        asyncio.create_task(service.sweep(), name="sweep"),
        asyncio.create_task(service.keep(), name="session keeper"),
        asyncio.create_task(_watch_loop(), name="event-loop lag"),
    ]
    yield
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await service.close()


async def _watch_loop() -> None:
    """Measure how late the event loop is, and count its tasks; runs until cancelled."""
    while True:
        before_s = time.monotonic()
        await asyncio.sleep(WATCH_S)
        metrics.event_loop_lag.observe(max(0.0, time.monotonic() - before_s - WATCH_S))
        metrics.event_loop_tasks.set(len(asyncio.all_tasks()))
