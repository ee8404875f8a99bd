"""One WebSocket from open to close, with a bounded outbox that a task of its own sends."""

import asyncio
import itertools
import logging
import time

from aiohttp import web

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.running_time import running_s
from voxtral_worker.server.gate.connections import GuardedProtocol
from voxtral_worker.server.pulse import Pulse, Sign

log = logging.getLogger(__name__)

# A client that lets so many messages wait does not read, or reads too slowly.
OUTBOX_MESSAGES = 4096
# Messages may be long, so their number alone does not limit the memory of the outbox.
OUTBOX_BYTES = 64 << 20
SEND_TIMEOUT_S = 30.0
# How long a client may take to read what is queued and to answer a close.
CLOSE_TIMEOUT_S = 10.0
# aiohttp compresses a larger frame on another thread.
LARGE_BYTES = 16 << 10
# How often the worker looks whether the client is still there.
LOOK_S = 2.5

_numbers = itertools.count(1)


class Connection:
    """Sends messages in the order of `send`, and cuts off a client that does not read.

    Owned by the event loop. Only the task `_write` writes to the socket, so no caller of `send`
    ever waits for a client.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.client_id = f"client_{next(_numbers)}"
        self.opened_s = time.monotonic()
        self._socket = socket
        self._transport = transport
        # Frames with their sizes, and pings; None: close the socket.
        self._outbox: asyncio.Queue[tuple[str | bytes | Sign, int] | None] = asyncio.Queue(
            OUTBOX_MESSAGES
        )
        self._queued_bytes = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        # Code and reason, once it has been decided to close.
        self._close_with: tuple[int, str] | None = None
        self._writer = asyncio.create_task(self._write(), name=f"writer {self.client_id}")
        # In running time: after a pause of the machine, what the client sent is not read yet.
        self._pulse = Pulse(running_s())
        self._loop = asyncio.get_running_loop()
        self._look_timer = self._loop.call_later(LOOK_S, self._look)

    @property
    def is_closing(self) -> bool:
        """Whether it no longer sends or takes anything."""
        return self._close_with is not None

    @property
    def close_code(self) -> int:
        """The code with which the worker closed it, else the client's code, else 1006."""
        if self._close_with is not None:
            return self._close_with[0]
        return self._socket.close_code or CloseCode.LOST

    def send(self, data: str | bytes) -> None:
        """Queue one text or binary frame; never waits."""
        if self._close_with is not None:
            return
        size = len(data.encode() if isinstance(data, str) else data)
        if self._queued_bytes and self._queued_bytes + size > OUTBOX_BYTES:
            self._cut_off(CloseCode.POLICY.reason)
            return
        self._queued_bytes += size
        try:
            self._outbox.put_nowait((data, size))
        except asyncio.QueueFull:
            self._cut_off(CloseCode.POLICY.reason)

    def close(self, code: int, reason: str) -> None:
        """Close once all that is queued has been sent; never waits."""
        if self._close_with is not None:
            return
        self._close_with = (code, reason)
        try:
            self._outbox.put_nowait(None)
        except asyncio.QueueFull:
            self._abort()

    async def finished(self) -> None:
        """Wait until the writer has ended. The reader calls this last."""
        self._look_timer.cancel()
        if self._close_with is None:
            # The client closed it or has gone: what is queued cannot be sent.
            self._close_with = (self.close_code, "")
            self._writer.cancel()
        await asyncio.wait([self._writer], timeout=SEND_TIMEOUT_S + CLOSE_TIMEOUT_S)
        self._writer.cancel()

    async def _write(self) -> None:
        try:
            while (queued := await self._outbox.get()) is not None:
                data, size = queued
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    if isinstance(data, Sign):
                        await self._socket.ping()
                    elif size > LARGE_BYTES and self._socket.compress:
                        await self._send_large(data)
                    else:
                        await self._send_frame(data)
                self._queued_bytes -= size
                self.sent_bytes += size
            code, reason = self._close_with or (CloseCode.DONE, "")
            await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            self._cut_off(CloseCode.POLICY.reason)
        except ConnectionError:
            # The client has gone. The reader sees it too, and ends the connection.
            self._close_with = self._close_with or (CloseCode.LOST, CloseCode.LOST.reason)

    async def _send_frame(self, data: str | bytes) -> None:
        if isinstance(data, str):
            await self._socket.send_str(data)
        else:
            await self._socket.send_bytes(data)

    async def _send_large(self, data: str | bytes) -> None:
        """Send a frame in a task that is not cancelled with the writer.

        aiohttp compresses a frame to its end in a task of its own, even if its caller is cancelled:
        the compressor must not stop in the middle of a frame. If the client has gone by then, that
        task fails. Without a caller that still waits for it, Python logs its error as never read.
        """
        sending = asyncio.create_task(self._send_frame(data), name=f"frame {self.client_id}")
        sending.add_done_callback(_read_error)
        await asyncio.shield(sending)

    def _look(self) -> None:
        """Ping a client when it is due, and give up one that has gone."""
        if self._transport is None or self._close_with is not None:
            return
        protocol = self._transport.get_protocol()
        # Only a guarded connection counts the bytes that come. All of the server's are guarded.
        if not isinstance(protocol, GuardedProtocol):
            return
        is_listening = self._transport.is_reading() and not self._queued_bytes
        sign = self._pulse.look(running_s(), protocol.received_bytes, is_listening=is_listening)
        if sign is Sign.GONE:
            self._close_with = (CloseCode.LOST, CloseCode.LOST.reason)
            self._abort()
            return
        # While messages wait, the connection is not idle, and each of them has its time limit.
        if sign is Sign.PING and self._outbox.empty():
            self._outbox.put_nowait((sign, 0))
        self._look_timer = self._loop.call_later(LOOK_S, self._look)

    def _cut_off(self, reason: str) -> None:
        metrics.slow_clients.inc()
        log.warning("connection cut off: %s", reason, extra={"client_id": self.client_id})
        self._close_with = (CloseCode.POLICY, reason)
        self._abort()

    def _abort(self) -> None:
        self._writer.cancel()
        if self._transport is not None:
            self._transport.abort()


def _read_error(sending: "asyncio.Task[None]") -> None:
    """Take the error of a send whose caller was cancelled; a caller that waits gets it as well."""
    if not sending.cancelled():
        sending.exception()
