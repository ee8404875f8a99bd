"""One WebSocket from open to close: a bounded outbox that its own task empties."""

import asyncio
import itertools
import logging
import time

from aiohttp import web

from voxtral_worker import metrics

log = logging.getLogger(__name__)

OUTBOX_MESSAGES = 4096
SEND_TIMEOUT_S = 30.0
# Time for a client to read what is queued and answer a close.
CLOSE_TIMEOUT_S = 10.0
CLOSE_LOST = 1006
CLOSE_SLOW = 1008

_numbers = itertools.count(1)


class Connection:
    """Messages go out in the order of `send`; a client that does not read is cut off.

    Owned by the event loop; `run` is the one task that writes to the socket.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.client_id = f"client_{next(_numbers)}"
        self.opened_s = time.monotonic()
        self._socket = socket
        self._transport = transport
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue(OUTBOX_MESSAGES)
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
        return self._socket.close_code or CLOSE_LOST

    def send(self, text: str) -> None:
        """Queue one text frame; never waits."""
        if self._close_with is not None:
            return
        try:
            self._outbox.put_nowait(text)
        except asyncio.QueueFull:
            self._cut_off("the client does not read")

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
            while (text := await self._outbox.get()) is not None:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._socket.send_str(text)
                self.sent_bytes += len(text.encode())
            code, reason = self._close_with or (1000, "")
            await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            self._cut_off("the client does not read")
        except ConnectionError:
            # The client is gone; the reader notices by itself.
            self._close_with = self._close_with or (CLOSE_LOST, "connection lost")

    def _cut_off(self, reason: str) -> None:
        metrics.slow_clients.inc()
        log.warning("connection cut off: %s", reason, extra={"client_id": self.client_id})
        self._close_with = (CLOSE_SLOW, reason)
        self._abort()

    def _abort(self) -> None:
        self._writer.cancel()
        if self._transport is not None:
            self._transport.abort()
