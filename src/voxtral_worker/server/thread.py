"""The server's own thread and event loop.

RunPod's SDK needs the main thread, and the model takes a while to load. So the server starts
first, in a daemon thread, and `/ping` shows how far the worker is.
"""

import asyncio
import concurrent.futures
import logging
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from voxtral_worker.server.access_log import AccessLog, is_no_noise
from voxtral_worker.server.app import make_app, make_ping_app
from voxtral_worker.server.gate.connections import (
    FIRST_REQUEST_S,
    Connections,
    GuardedSite,
    default_connections,
    raise_descriptor_limit,
)
from voxtral_worker.server.health import health
from voxtral_worker.server.lifecycle import Lifecycle, Parts
from voxtral_worker.server.service import Service
from voxtral_worker.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long another thread waits for a call on the server's loop, before it counts as stuck.
CALL_TIMEOUT_S = 60.0


class ServerThread:
    """Serves from `start` to `stop`; its other methods may be called from any thread."""

    def __init__(self, settings: Settings, first_request_s: float = FIRST_REQUEST_S) -> None:
        self._first_request_s = first_request_s
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._service: Service | None = None
        self._runners: list[web.AppRunner] = []

    def start(self) -> None:
        """Start the thread and listen. Raises OSError if a port is taken."""
        self._thread.start()
        self.call(self._listen())

    def begin_step(self, step: str) -> None:
        """A step of the cold start begins; does not wait."""
        self._soon(lambda life: life.cold_start.begin(step, time.monotonic()))

    def end_step(self, step: str, took_s: float) -> None:
        """A step of the cold start is over; does not wait."""
        self._soon(lambda life: life.cold_start.end(step, took_s))

    def note_download(self, have: int, total: int) -> None:
        """Bytes of the weights that are here, and all of them; does not wait."""
        self._soon(lambda life: life.cold_start.note_download(have, total))

    def become_ready(self, parts: Parts) -> None:
        """Take sessions from now on."""
        self._on_loop(lambda service: service.life.become_ready(parts))

    def fail(self) -> None:
        """Report from now on that the worker is not healthy and never will be."""
        self._on_loop(lambda service: service.life.fail())

    def health(self) -> dict[str, Any]:
        """The answer of `GET /health`."""
        return self._on_loop(health)

    def drain(self, timeout_s: float) -> None:
        """Refuse new work, finish the work under way, close all sockets with 1012."""
        self.call(self.service.drain(timeout_s), timeout_s + CALL_TIMEOUT_S)

    def begin_drain(self, timeout_s: float) -> None:
        """As `drain`, but does not wait."""
        self.begin(self.service.drain(timeout_s))

    def stop(self) -> None:
        """Close all that is still open and end the thread."""
        if not self._thread.is_alive():
            return
        self.call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    @property
    def service(self) -> Service:
        """The service. The server's loop owns it: use it only there."""
        if self._service is None:
            raise RuntimeError("the server has not started")
        return self._service

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run a coroutine on the server's loop and wait for its result."""
        return self.begin(work).result(timeout_s)

    def begin(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _on_loop(self, work: Callable[[Service], T]) -> T:
        async def done() -> T:
            return work(self.service)

        return self.call(done())

    def _soon(self, work: Callable[[Lifecycle], None]) -> None:
        self._loop.call_soon_threadsafe(lambda: work(self.service.life))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> None:
        settings = self._settings
        self._service = service = Service(settings)
        descriptors = raise_descriptor_limit()
        most = settings.max_connections or default_connections(descriptors)
        runner = await self._runner(make_app(service))
        most_per_address = settings.max_connections_per_address
        connections = Connections(
            service.client_addresses, most, most_per_address, self._first_request_s
        )
        await GuardedSite(runner, settings.host, settings.port, _tls(settings), connections).start()
        if settings.port_health not in (None, settings.port):
            # A plain site, which does not count connections: health checks must get an answer
            # even if all other connections are taken.
            runner = await self._runner(make_ping_app(service))
            await web.TCPSite(runner, settings.host, settings.port_health).start()
        log.info("listening", extra={"host": settings.host, "port": settings.port})

    async def _runner(self, app: web.Application) -> web.AppRunner:
        logging.getLogger("aiohttp.server").addFilter(is_no_noise)
        # A shutdown drains the worker first, so nothing should be left: wait a short time only.
        runner = web.AppRunner(
            app, handle_signals=False, access_log_class=AccessLog, shutdown_timeout=10.0
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _close(self) -> None:
        if self._service is not None:
            # Without waiting: closes the sessions that are left, if the worker was not drained.
            await self._service.drain(0.0)
        for runner in self._runners:
            await runner.cleanup()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context
