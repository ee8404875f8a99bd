"""The connection of one session, which is opened again after it was lost."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any
from urllib.parse import urlencode

import websockets
from websockets.asyncio.client import ClientConnection, connect

from voxtral_worker.client.assembly import Assembly
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.flow import AudioFlow
from voxtral_worker.client.journal import Journal
from voxtral_worker.client.rest import Rest, refusal, unreachable
from voxtral_worker.client.retry import Retry

# A worker that resumes a session first processes the audio that it has already read. Meantime it
# sends heartbeats, so the limit is for the time without any message.
RESUME_TIMEOUT_S = 30.0
# Audio that was held is sent again below the worker's default limit of 1,000,000 bytes a second.
RESEND_BYTES_PER_S = 640_000
# The largest frame of audio that the worker takes.
MOST_CHUNK_BYTES = 1 << 20
# The config goes in the address of the socket, so that the session is made on the worker that the
# socket reaches. A config too long for an address goes by a REST call before it; behind a load
# balancer, another worker may get that call.
LONGEST_PATH = 4096
# The close codes after which the session cannot be resumed.
FINAL_CODES = {
    1000: "the session was ended",
    1008: "the client did not read its messages in time",
    4404: "the session is not known",
    4408: "the session expired",
    4409: "another connection took the session over",
    4429: "limits were ignored for too long",
}


def control(control_type: str, **more: object) -> dict[str, Any]:
    """A control message."""
    return {"type": "control", "control_type": control_type, **more}


class Line:
    """Sends and receives for one session. A lost connection loses and repeats nothing.

    Reading `messages` opens a lost connection again. What is sent before that is held until then.
    """

    def __init__(self, rest: Rest, retry: Retry, config: dict[str, Any]) -> None:
        self.session_id: str | None = None
        self._rest = rest
        self._retry = retry
        self._config = config
        self._path = "/ws/audio?" + urlencode({"config": json.dumps(config)})
        # Messages that came while a connection was being opened, and were not read yet.
        self._early: deque[dict[str, Any]] = deque()
        self._assembly = Assembly()
        self._socket: ClientConnection | None = None
        # Set while there is a connection that has been resumed.
        self.is_open = asyncio.Event()
        # Held while anything is sent or a connection is opened: the journal must have the same
        # order as the socket, and nothing may be sent before the session is resumed.
        self._sending = asyncio.Lock()
        self._journal = Journal()
        # The number of the last message that was read: a resume continues after it.
        self._last_seq = 0
        self._flow = AudioFlow(self._journal)
        # Requests for statistics, and how many of them were answered or never will be.
        self.stats_asked = self.stats_answered = 0
        self._is_closed = False
        self._is_interrupted = False
        # Why the session is over for good; None: it is not.
        self._end: VoxtralError | None = None

    async def open(self) -> None:
        """Open the session. Raises VoxtralError if the worker refuses it or cannot be reached."""
        if len(self._path) > LONGEST_PATH:
            body = {"config": self._config}
            call = partial(self._rest.call, "POST", "/session/create", body)
            self._take_session(await self._retry.run(call))
        self._early.extend(await self._retry.run(self._reopen))

    async def close(self) -> None:
        """End the session, and `messages` with it."""
        self._is_closed = True
        if self._socket is not None:
            await self._socket.close()
        if self.session_id is not None:
            with contextlib.suppress(VoxtralError):
                await self._rest.call("DELETE", f"/session/{self.session_id}")

    def interrupt(self) -> None:
        """End `messages` but not the session; the next reader continues where it stopped."""
        self._is_interrupted = True
        if self._socket is not None:
            self._socket.transport.abort()

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the worker's messages, across lost connections, until `close` or `interrupt`.

        Raises VoxtralError if the session is over or the worker cannot be reached again.
        """
        self._is_interrupted = False
        while True:
            while self._early:
                yield self._noted(self._early.popleft())
            if self._is_closed or self._is_interrupted:
                return
            self._require_alive()
            if not self.is_open.is_set():
                await self._come_back()
            elif (message := await self._receive()) is not None:
                yield self._noted(message)

    async def send_audio(self, chunk: bytes) -> None:
        """Send one frame of audio. Raises VoxtralError if it can be neither sent nor held."""
        if len(chunk) > MOST_CHUNK_BYTES:
            raise VoxtralError(
                f"a chunk of audio has {len(chunk)} bytes, but may have {MOST_CHUNK_BYTES}"
            )
        await self._flow.wait_for_room(len(chunk), self._is_connected)
        async with self._sending:
            self._require_alive()
            if not self._journal.has_room(len(chunk), is_open=False):
                raise VoxtralError(
                    "the connection is lost and no more audio can be held: read the events, "
                    "which opens it again"
                )
            # First the journal: if the connection is lost during the send, the chunk is sent again.
            self._journal.add_audio(chunk)
            await self._send(chunk)
            if self.is_open.is_set() and self._journal.is_to_ask():
                self._flow.pinged(by_caller=False)
                await self._send(json.dumps(control("ping")))

    def _is_connected(self) -> bool:
        return self.is_open.is_set() and (
            self._socket is not None and self._socket.state is websockets.State.OPEN
        )

    async def send_message(self, message: dict[str, Any], turn_id: str | None = None) -> None:
        """Send a message, and send it again if a lost connection took it.

        `turn_id`: the turn that continues with it. Raises VoxtralError if it can be neither sent
        nor held.
        """
        async with self._sending:
            self._require_alive()
            wire = self._journal.add_message(
                message, is_sent=self.is_open.is_set(), turn_id=turn_id
            )
            await self._send(wire)

    async def ask(self, control_type: str) -> None:
        """Send a control that changes nothing. It is not sent again after a lost connection."""
        async with self._sending:
            self._require_alive()
            self.stats_asked += control_type == "get_stats"
            if control_type == "ping" and self.is_open.is_set():
                self._flow.pinged(by_caller=True)
            await self._send(json.dumps(control(control_type)))

    def _require_alive(self) -> None:
        if self._end is not None:
            raise self._end
        if self._is_closed:
            raise VoxtralError("the session is closed")

    async def _send(self, data: str | bytes) -> None:
        if self._socket is None or not self.is_open.is_set():
            return
        try:
            await self._socket.send(data)
        except websockets.ConnectionClosed:
            self._lose()

    def _lose(self) -> None:
        self.is_open.clear()
        self._flow.lost()

    async def _receive(self) -> dict[str, Any] | None:
        """The next message; None if the connection was lost.

        Raises VoxtralError if the session is over for good, or events are read in two places.
        """
        socket = self._socket
        assert socket is not None
        try:
            while (message := self._assembly.next()) is None:
                self._assembly.take(await socket.recv())
        except websockets.ConnectionClosed as closed:
            # Another task may have opened a new connection while this one waited.
            if socket is self._socket:
                self._lose()
            code = closed.rcvd.code if closed.rcvd else 1006
            if code in FINAL_CODES and not self._is_closed:
                self._end = VoxtralError(FINAL_CODES[code])
                raise self._end from closed
            return None
        except websockets.ConcurrencyError as error:
            raise VoxtralError("the events of this session are being read already") from error
        self._journal.take(message)
        self.stats_answered += "stats" in message
        if message.get("control_type") == "pong" and not self._flow.ponged():
            return await self._receive()
        return message

    def _noted(self, message: dict[str, Any]) -> dict[str, Any]:
        if message.get("type") != "heartbeat":
            self._last_seq = max(self._last_seq, message.get("seq", 0))
        is_of_one = "turn_id" in message or "request_id" in message
        if message.get("code") == "RATE_LIMITED" and not is_of_one:
            # The worker has dropped audio that was over its limit. Its count of received bytes no
            # longer matches the journal, so a resume would send the wrong audio.
            self._end = VoxtralError(message["error"], code="RATE_LIMITED")
            raise self._end
        return message

    async def _come_back(self) -> None:
        try:
            self._early.extend(await self._retry.run(self._reopen))
        except VoxtralError:
            # If the line was closed at the same time, no connection is needed.
            if not self._is_closed:
                raise

    async def _reopen(self) -> list[dict[str, Any]]:
        """Try once to open a connection; returns the messages up to `resumed`.

        Raises VoxtralError.
        """
        try:
            async with self._sending:
                # Two readers may have seen the loss; the first one has opened it again.
                return [] if self.is_open.is_set() else await self._open()
        except websockets.InvalidStatus as refused:
            answer = refused.response
            raise refusal(answer.status_code, answer.headers, answer.body or b"") from refused
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise unreachable(error) from error

    async def _open(self) -> list[dict[str, Any]]:
        address = self._rest.url.replace("http", "ws", 1) + self._path
        address += f"{'&' if '?' in address else '?'}last_seq={self._last_seq}"
        # Again, because it may have been closed while this waited for the lock.
        self._require_alive()
        if self._socket is not None:
            self._socket.transport.abort()
        # Drop what was received and not read: its numbers are above `_last_seq`, so it comes again.
        self._assembly.clear()
        self._socket = await connect(address, additional_headers=self._rest.headers)
        try:
            return await self._resume(self._socket)
        except BaseException:
            # Also when it is cancelled: a connection that is not resumed must not stay open.
            self._socket.transport.abort()
            raise

    async def _resume(self, socket: ClientConnection) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(RESUME_TIMEOUT_S) as limit:
                while (message := await self._receive()) is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + RESUME_TIMEOUT_S)
                    messages.append(message)
                    if self.session_id is None:
                        self._take_session(message)
                    if message.get("status") == "resumed":
                        return messages + await self._go_on(socket, message)
        except TimeoutError:
            raise ConnectionError("the worker did not resume the session in time") from None
        raise ConnectionError("the connection was lost before it was resumed")

    def _take_session(self, message: dict[str, Any]) -> None:
        """Remember the session that the worker says it has opened. Raises VoxtralError."""
        if message.get("type") == "error":
            code = message["code"]
            raise VoxtralError(message["error"], code=code, may_pass=code != "INVALID_REQUEST")
        if "websocket_url" in message:
            self.session_id, self._path = message["session_id"], message["websocket_url"]

    async def _go_on(
        self, socket: ClientConnection, resumed: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Send again what the worker has not taken.

        Returns an error message for each text of which the worker no longer knows whether it took
        it: `missed` says that it no longer holds all of its own messages.
        """
        lost = self._journal.give_up_texts() if resumed.get("missed") else []
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for frame in self._journal.missing(resumed["audio_bytes_received"]):
            await socket.send(frame)
            due_s += len(frame) / RESEND_BYTES_PER_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        # Statistics that were asked for on the lost connection are not sent again.
        self.stats_answered = self.stats_asked
        self._flow.resumed()
        self.is_open.set()
        return [_unknown(request_id) for request_id in lost]


def _unknown(request_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": "the worker no longer holds all messages from while the connection was lost, so "
        "it is not known whether it took this text",
        "code": "MESSAGES_MISSED",
        "request_id": request_id,
    }
