"""Streams audio to a worker, across lost connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Self

import websockets
from websockets.asyncio.client import ClientConnection, connect

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import Event, read_event
from voxtral_worker.client.rest import Rest, refusal, unreachable
from voxtral_worker.client.retry import Retry

RESUME_TIMEOUT_S = 30.0
# What was sent is kept for so long, in bytes, to be sent again after a lost connection.
MOST_HELD_BYTES = 8 << 20
STATS_EVERY_S = 0.2
# The close codes after which the worker has nothing more to say to this session.
FINAL_CODES = {
    1000: "the session was ended",
    1008: "the client did not read",
    4404: "the session is not known",
    4408: "the session expired",
    4409: "another connection took the session over",
    4429: "limits were ignored for too long",
}


class VoxtralClient:
    """One session with a worker; audio is neither lost nor doubled when its connection drops."""

    def __init__(
        self, url: str, *, token: str | None = None, retry: Retry | None = None, **config: Any
    ) -> None:
        self._rest = Rest(url, token)
        self._retry = retry or Retry()
        self._config = config
        self._path = ""
        self._socket: ClientConnection | None = None
        self._is_open = asyncio.Event()
        self._sending = asyncio.Lock()
        self._last_seq = 0
        self._held = bytearray()
        self._sent_bytes = 0
        self._has_ended = False

    async def __aenter__(self) -> Self:
        session = await self._retry.run(self._create)
        self._path = session["websocket_url"]
        self._id = session["session_id"]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            await self._socket.close()
        with contextlib.suppress(VoxtralError):
            await self._rest.call("DELETE", f"/session/{self._id}")

    async def stream(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Event]:
        """Send audio (16-bit mono PCM, 16 kHz); yields events until all of it is answered.

        Raises VoxtralError when the worker refuses or stays out of reach.
        """
        self._has_ended = False
        feeding = asyncio.create_task(self._feed(chunks))
        feeding.add_done_callback(self._hang_up)
        is_done = False
        try:
            while not is_done:
                messages = [] if self._is_open.is_set() else await self._retry.run(self._reopen)
                for message in messages:
                    yield self._noted(message)
                # What it failed for while the line was down has nobody else to tell it.
                if feeding.done():
                    feeding.result()
                async for message in self._receive():
                    if "stats" in message:
                        is_done = self._has_ended and message["stats"]["queue_size"] == 0
                        if is_done:
                            break
                        continue
                    yield self._noted(message)
                if feeding.done():
                    feeding.result()
        except VoxtralError:
            if feeding.done():
                feeding.result()
            raise
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    def _hang_up(self, feeding: "asyncio.Task[None]") -> None:
        # The reader waits for the worker; a source of audio that failed must wake it.
        if not feeding.cancelled() and self._socket is not None:
            self._socket.transport.abort()

    async def health(self) -> dict[str, Any]:
        """The worker's `GET /health`; needs no session."""
        return await self._rest.health()

    async def _create(self) -> dict[str, Any]:
        return await self._rest.call("POST", "/session/create", {"config": self._config})

    async def _feed(self, chunks: AsyncIterable[bytes]) -> None:
        async for chunk in chunks:
            await self._is_open.wait()
            async with self._sending:
                self._hold(chunk)
                await self._send(chunk)
        while True:
            await self._is_open.wait()
            async with self._sending:
                if not self._has_ended:
                    await self._control("end_turn")
                    self._has_ended = self._is_open.is_set()
                await self._control("get_stats")
            await asyncio.sleep(STATS_EVERY_S)

    def _hold(self, chunk: bytes) -> None:
        self._held += chunk
        self._sent_bytes += len(chunk)
        del self._held[:-MOST_HELD_BYTES]

    async def _control(self, control_type: str) -> None:
        await self._send(json.dumps({"type": "control", "control_type": control_type}))

    async def _send(self, data: str | bytes) -> None:
        try:
            assert self._socket is not None
            await self._socket.send(data)
        except websockets.ConnectionClosed:
            self._is_open.clear()

    async def _receive(self) -> AsyncIterator[dict[str, Any]]:
        """Messages until the connection is lost. Raises VoxtralError where it is lost for good."""
        assert self._socket is not None
        try:
            while True:
                yield json.loads(await self._socket.recv())
        except websockets.ConnectionClosed as closed:
            self._is_open.clear()
            code = closed.rcvd.code if closed.rcvd else 1006
            if code in FINAL_CODES:
                raise VoxtralError(FINAL_CODES[code]) from closed

    def _noted(self, message: dict[str, Any]) -> Event:
        if message.get("type") != "heartbeat":
            self._last_seq = max(self._last_seq, message.get("seq", 0))
        if message.get("code") == "RATE_LIMITED":
            # What was over the limit is gone, and with it the count that a resume relies on.
            raise VoxtralError(message["error"], code="RATE_LIMITED")
        return read_event(message)

    async def _reopen(self) -> list[dict[str, Any]]:
        """Open the line once; what came until it was resumed. Raises VoxtralError."""
        try:
            async with self._sending:
                return await self._open()
        except websockets.InvalidStatus as refused:
            answer = refused.response
            raise refusal(answer.status_code, answer.headers, answer.body or b"") from refused
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise unreachable(error) from error

    async def _open(self) -> list[dict[str, Any]]:
        address = self._rest.url.replace("http", "ws", 1) + self._path
        address += f"{'&' if '?' in address else '?'}last_seq={self._last_seq}"
        self._socket = await connect(address, additional_headers=self._rest.headers)
        messages: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(RESUME_TIMEOUT_S):
                async for message in self._receive():
                    messages.append(message)
                    if message.get("status") == "resumed":
                        await self._send_again(message["audio_bytes_received"])
                        self._is_open.set()
                        return messages
        except TimeoutError:
            raise ConnectionError("the worker did not resume the session in time") from None
        raise ConnectionError("the connection was lost before it was resumed")

    async def _send_again(self, received_bytes: int) -> None:
        missing_bytes = self._sent_bytes - received_bytes
        if missing_bytes > len(self._held):
            raise VoxtralError("more audio was lost than the client holds")
        assert self._socket is not None
        if missing_bytes > 0:
            again = bytes(self._held[-missing_bytes:])
            for start in range(0, len(again), 32_000):
                await self._socket.send(again[start : start + 32_000])
        # The end may have been lost with the audio; said twice, it does no harm.
        self._has_ended = False
