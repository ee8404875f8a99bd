"""Limits open connections, and closes those that send no request.

Each open connection takes a file descriptor. An attacker who takes all of them blocks the worker
for everyone, without sending a single byte.
"""

import asyncio
import logging
import resource
import ssl
from collections import Counter
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from voxtral_worker import metrics
from voxtral_worker.server.gate.access import ClientAddresses, counted_as, is_loopback

log = logging.getLogger(__name__)

FIRST_REQUEST_S = 10.0
# Descriptors for everything but connections: the model's files, logs, Redis.
RESERVED_DESCRIPTORS = 64
LEAST_CONNECTIONS = 32


def raise_descriptor_limit() -> int:
    """Let this process open as many files as the system allows. Returns that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        # Some systems report a hard limit that they do not grant.
        return soft
    return hard


def default_connections(descriptors: int) -> int:
    """The default limit for open connections, if the process may open so many files."""
    if descriptors == resource.RLIM_INFINITY:
        descriptors = 1 << 20
    return max(LEAST_CONNECTIONS, descriptors // 2 - RESERVED_DESCRIPTORS)


class Connections:
    """Counts the open connections of a port. Owned by the server's loop.

    `first_request_s`: how long a connection may be open without a request. Trusted proxies and
    loopback addresses have no limit per address, because many users may be behind them.
    """

    def __init__(
        self,
        addresses: ClientAddresses,
        most: int,
        most_per_address: int,
        first_request_s: float = FIRST_REQUEST_S,
    ) -> None:
        self._addresses = addresses
        self._most = most
        self._most_per_address = most_per_address
        self._first_request_s = first_request_s
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def protocol(self, make: Callable[[], asyncio.Protocol]) -> "GuardedProtocol":
        """A protocol that passes its connection on to what `make` makes, or closes it."""
        return GuardedProtocol(self, make, self._first_request_s)

    def enter(self, peer: str) -> bool:
        """Count a new connection. False: there is no room for it."""
        address = counted_as(peer)
        if self._open >= self._most:
            return self._refuse("all")
        if self._by_address[address] >= self._most_per_address and not self._is_exempt(peer):
            return self._refuse("address")
        self._open += 1
        self._by_address[address] += 1
        return True

    def leave(self, peer: str) -> None:
        """Forget a connection that was counted."""
        address = counted_as(peer)
        self._open -= 1
        self._by_address[address] -= 1
        # Adding an empty Counter drops the entries that are 0.
        self._by_address += Counter()

    def _is_exempt(self, peer: str) -> bool:
        return self._addresses.is_proxy(peer) or is_loopback(peer)

    def _refuse(self, reason: str) -> bool:
        metrics.connections_refused.labels(reason).inc()
        return False


class GuardedProtocol(asyncio.Protocol):
    """Guards aiohttp's protocol of one connection.

    It closes a connection that is over a limit at once, and one that sends no request in time.
    """

    def __init__(
        self,
        connections: Connections,
        make: Callable[[], asyncio.Protocol],
        first_request_s: float,
    ) -> None:
        self._connections = connections
        self._make = make
        self._first_request_s = first_request_s
        self._inner: asyncio.Protocol | None = None
        self._peer = ""
        # Bytes that have come, whether or not they are a whole message yet.
        self.received_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the connection on, or close it."""
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        if not self._connections.enter(self._peer):
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._first_request_s, self._cut_off, transport)
        self._inner = self._make()
        self._inner.connection_made(transport)

    def has_asked(self) -> None:
        """Note that a request has come: aiohttp's own timeouts apply from now on."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _cut_off(self, transport: asyncio.Transport) -> None:
        metrics.connections_refused.labels("silent").inc()
        transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        if self._inner is None:
            return
        self.has_asked()
        self._connections.leave(self._peer)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the data on."""
        self.received_bytes += len(data)
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that nothing more comes."""
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        if self._inner is not None:
            self._inner.resume_writing()


class GuardedSite(web.BaseSite):
    """A port whose connections are counted."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        connections: Connections,
    ) -> None:
        super().__init__(runner, ssl_context=tls)
        self._host = host
        self._port = port
        self._connections = connections

    @property
    def name(self) -> str:
        """The address of the port."""
        return f"{'http' if self._ssl_context is None else 'https'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        await super().start()
        make = self._runner.server
        assert make is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: self._connections.protocol(make),
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            # A connection is counted only after its TLS handshake, so that must be short.
            ssl_handshake_timeout=None if self._ssl_context is None else FIRST_REQUEST_S,
        )


@web.middleware
async def note_first_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Report to the connection's guard that a request has come."""
    transport = request.transport
    protocol = None if transport is None else transport.get_protocol()
    if isinstance(protocol, GuardedProtocol):
        protocol.has_asked()
    return await handler(request)
