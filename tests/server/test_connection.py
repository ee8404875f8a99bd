"""One WebSocket's way out: in order, bounded, never waited for."""

import asyncio
import gc
import os
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.compression_utils import ZLibCompressor

from tests.support.ports import free_port
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.server.connection import (
    LARGE_BYTES,
    OUTBOX_BYTES,
    OUTBOX_MESSAGES,
    Connection,
)


class FakeSocket:
    """Takes messages, or does not read at all."""

    compress = 0

    def __init__(self, *, reads: bool = True, breaks: bool = False) -> None:
        self.sent: list[str] = []
        self.closed_with: int | None = None
        self._reads = reads
        self._breaks = breaks

    async def send_str(self, text: str) -> None:
        if self._breaks:
            raise ConnectionResetError
        if not self._reads:
            await asyncio.Event().wait()
        self.sent.append(text)

    async def close(self, code: int, message: bytes) -> None:
        self.closed_with = code


class FakeTransport:
    """Notices that it was cut off."""

    def __init__(self) -> None:
        self.was_aborted = False

    def abort(self) -> None:
        self.was_aborted = True


def open_connection(socket: FakeSocket, transport: FakeTransport) -> Connection:
    return Connection(socket, transport)  # type: ignore[arg-type]


async def test_what_is_queued_is_sent_before_the_close() -> None:
    socket, transport = FakeSocket(), FakeTransport()
    connection = open_connection(socket, transport)
    connection.send("one")
    connection.send("two")
    connection.close(4408, "expired")
    connection.send("three")
    connection.close(1000, "again")
    await connection.finished()
    assert socket.sent == ["one", "two"]
    assert socket.closed_with == 4408


async def test_a_client_that_does_not_read_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    socket, transport = FakeSocket(reads=False), FakeTransport()
    connection = open_connection(socket, transport)
    for number in range(OUTBOX_MESSAGES + 2):
        connection.send(str(number))
        if number == 0:
            await asyncio.sleep(0)
    assert transport.was_aborted
    assert connection.is_closing
    assert connection.close_code == CloseCode.POLICY
    assert caplog.messages == ["connection cut off: the client does not read"]
    await connection.finished()


async def test_a_close_that_does_not_fit_cuts_off() -> None:
    socket, transport = FakeSocket(reads=False), FakeTransport()
    connection = open_connection(socket, transport)
    for number in range(OUTBOX_MESSAGES):
        connection.send(str(number))
    connection.close(1012, "going away")
    assert transport.was_aborted
    await connection.finished()


async def test_a_client_that_is_gone_ends_the_writer() -> None:
    connection = open_connection(FakeSocket(breaks=True), FakeTransport())
    connection.send("hello")
    await asyncio.sleep(0)
    await connection.finished()
    assert connection.is_closing


async def test_what_waits_for_a_client_is_bounded_in_bytes() -> None:
    socket, transport = FakeSocket(reads=False), FakeTransport()
    connection = open_connection(socket, transport)
    for _ in range(4):
        connection.send("x" * (OUTBOX_BYTES // 4))
    assert not transport.was_aborted
    connection.send("x")
    assert transport.was_aborted
    await connection.finished()


async def test_what_was_read_does_not_count_for_what_waits() -> None:
    socket, transport = FakeSocket(), FakeTransport()
    connection = open_connection(socket, transport)
    for _ in range(3):
        connection.send("x" * OUTBOX_BYTES)
        await asyncio.sleep(0.01)
    connection.close(1000, "")
    await connection.finished()
    assert len(socket.sent) == 3 and not transport.was_aborted


async def test_a_client_that_leaves_while_a_large_frame_is_compressed_leaves_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error of the task in which aiohttp compresses it would not be read."""
    compresses, has_gone, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()
    compress = ZLibCompressor.compress

    async def compressed(self: ZLibCompressor, data: bytes) -> bytes:
        compresses.set()
        await has_gone.wait()
        return await compress(self, data)

    monkeypatch.setattr(ZLibCompressor, "compress", compressed)
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    async def converse(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connection = Connection(socket, request.transport)
        connection.send(os.urandom(LARGE_BYTES + 1))
        async for _ in socket:
            pass
        await connection.finished()
        # Without the connection: it would keep what is to be collected.
        finished.set()
        return socket

    app = web.Application()
    app.router.add_get("/", converse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := free_port())
    await site.start()
    try:
        async with asyncio.timeout(30), ClientSession() as http:
            await http.ws_connect(f"http://127.0.0.1:{port}/", compress=15)
            await compresses.wait()
        async with asyncio.timeout(30):
            await finished.wait()
            has_gone.set()
            while [each for each in asyncio.all_tasks() if "_send_" in repr(each.get_coro())]:
                await asyncio.sleep(0.01)
        gc.collect()
        assert not errors
    finally:
        await runner.cleanup()
