"""One WebSocket from open to close: a bounded outbox that its own task empties."""

import asyncio
import itertools
import logging
import time

from aiohttp import web

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode

log = logging.getLogger(__name__)

OUTBOX_MESSAGES = 4096
# Messages may be long: their number alone does not bound what waits.
OUTBOX_BYTES = 64 << 20
SEND_TIMEOUT_S = 30.0
# Time for a client to read what is queued and answer a close.
CLOSE_TIMEOUT_S = 10.0

_numbers = itertools.count(1)


class Connection:
    """Messages go out in the order of `send`; a client that does not read is cut off.

    Owned by the event loop; `_write` is the one task that writes to the socket.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.client_id = f"client_{next(_numbers)}"
        self.opened_s = time.monotonic()
        self._socket = socket
        self._transport = transport
        self._outbox: asyncio.Queue[tuple[str | bytes, int] | None] = asyncio.Queue(OUTBOX_MESSAGES)
        self._queued_bytes = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self._close_with: tuple[int, str] | None = None
        self._writer = asyncio.create_task(self._write(), name=f"writer {self.client_id}")

    @property
    def is_closing(self) -> bool:
        """Whether nothing more will be sent or taken."""
        return self._close_with is not None

    @property
    def close_code(self) -> int:
        """How it ended: the code that closed it here, or the client's, or 1006 without any."""
        if self._close_with is not None:
            return self._close_with[0]
        return self._socket.close_code or CloseCode.LOST

    def send(self, data: str | bytes) -> None:
        """Queue one frame, of text or of bytes; never waits."""
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
        """Close after what is queued has been sent; never waits."""
        if self._close_with is not None:
            return
        self._close_with = (code, reason)
        try:
            self._outbox.put_nowait(None)
        except asyncio.QueueFull:
            self._abort()

    async def finished(self) -> None:
        """Wait until the writer has ended; the reader calls it last."""
        if self._close_with is None:
            self._close_with = (self.close_code, "")
            self._writer.cancel()
        await asyncio.wait([self._writer], timeout=SEND_TIMEOUT_S + CLOSE_TIMEOUT_S)
        self._writer.cancel()

    async def _write(self) -> None:
        try:
            while (queued := await self._outbox.get()) is not None:
                data, size = queued
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    if isinstance(data, str):
                        await self._socket.send_str(data)
                    else:
                        await self._socket.send_bytes(data)
                self._queued_bytes -= size
                self.sent_bytes += size
            code, reason = self._close_with or (CloseCode.DONE, "")
            await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            self._cut_off(CloseCode.POLICY.reason)
        except ConnectionError:
            # The client is gone; the reader notices by itself.
            self._close_with = self._close_with or (CloseCode.LOST, CloseCode.LOST.reason)

    def _cut_off(self, reason: str) -> None:
        metrics.slow_clients.inc()
        log.warning("connection cut off: %s", reason, extra={"client_id": self.client_id})
        self._close_with = (CloseCode.POLICY, reason)
        self._abort()

    def _abort(self) -> None:
        self._writer.cancel()
        if self._transport is not None:
            self._transport.abort()
