"""The connection of one session, which comes back after it was lost."""

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

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import SOUND
from voxtral_worker.client.journal import MOST_HELD_BYTES, Journal
from voxtral_worker.client.rest import Rest, refusal, unreachable
from voxtral_worker.client.retry import Retry

RESUME_TIMEOUT_S = 30.0
# The largest frame of audio that the worker takes.
MOST_CHUNK_BYTES = 1 << 20
# A socket opens its own session, on the worker that it reaches; a config that its address has no
# room for goes by a call before it, which another worker of several may answer.
LONGEST_PATH = 4096
# The close codes after which the worker has nothing more to say to this session.
FINAL_CODES = {
    1000: "the session was ended",
    1008: "the client did not read",
    4404: "the session is not known",
    4408: "the session expired",
    4409: "another connection took the session over",
    4429: "limits were ignored for too long",
}


class Line:
    """Neither audio nor messages are lost or doubled, in either direction, when it is cut.

    Whoever reads `messages` opens it again; what is sent meanwhile is held until then.
    """

    def __init__(self, rest: Rest, retry: Retry, config: dict[str, Any]) -> None:
        self.session_id: str | None = None
        self._rest = rest
        self._retry = retry
        self._config = config
        self._path = "/ws/audio?" + urlencode({"config": json.dumps(config)})
        # What a new connection brought and nobody has read yet.
        self._early: deque[dict[str, Any]] = deque()
        # A message of speech whose sound comes next, and messages that are whole.
        self._spoken: dict[str, Any] | None = None
        self._whole: deque[dict[str, Any]] = deque()
        self._socket: ClientConnection | None = None
        # Whether there is a connection.
        self.is_open = asyncio.Event()
        self._sending = asyncio.Lock()
        self._journal = Journal()
        self._last_seq = 0
        # How often statistics were asked for, and how many of these have their answer or will never
        # have one.
        self.stats_asked = self.stats_answered = 0
        # Audio that was given while the connection was lost.
        self._waiting_bytes = 0
        self._is_closed = False
        self._is_interrupted = False
        # Why it is over for good.
        self._end: VoxtralError | None = None

    async def open(self) -> None:
        """Open the session. Raises VoxtralError when the worker refuses it or stays away."""
        if len(self._path) > LONGEST_PATH:
            body = {"config": self._config}
            call = partial(self._rest.call, "POST", "/session/create", body)
            self._know(await self._retry.run(call))
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
        """End `messages`, though not the session; the next reader goes on where it stopped."""
        self._is_interrupted = True
        if self._socket is not None:
            self._socket.transport.abort()

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """What the worker says, across lost connections, until `close` or `interrupt`.

        Raises VoxtralError where the session is over, or the worker stays out of reach.
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
        """Send one frame of audio. Raises VoxtralError where it can be neither sent nor held."""
        if len(chunk) > MOST_CHUNK_BYTES:
            raise VoxtralError(
                f"a chunk of audio has {len(chunk)} bytes, but may have {MOST_CHUNK_BYTES}"
            )
        async with self._sending:
            self._require_alive()
            if not self.is_open.is_set():
                if self._waiting_bytes + len(chunk) > MOST_HELD_BYTES:
                    raise VoxtralError(
                        "the connection is lost and no more audio can be held: read the events, "
                        "which opens it again"
                    )
                self._waiting_bytes += len(chunk)
            self._journal.add_audio(chunk)
            await self._send(chunk)

    async def send_message(self, message: dict[str, Any], turn_id: str | None = None) -> None:
        """Send a message; once more after a lost connection that did not bring it there.

        `turn_id`: the turn that goes on with it. Raises VoxtralError where it can be neither sent
        nor held.
        """
        async with self._sending:
            self._require_alive()
            wire = self._journal.add_message(
                message, is_sent=self.is_open.is_set(), turn_id=turn_id
            )
            await self._send(wire)

    async def ask(self, control_type: str) -> None:
        """Send a control that changes nothing; one that a lost connection took is not repeated."""
        async with self._sending:
            self._require_alive()
            self.stats_asked += control_type == "get_stats"
            await self._send(json.dumps({"type": "control", "control_type": control_type}))

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
            self.is_open.clear()

    async def _receive(self) -> dict[str, Any] | None:
        """The next message, None where the connection was lost. Raises where it is for good."""
        socket = self._socket
        assert socket is not None
        try:
            while not self._whole:
                self._take(await socket.recv())
        except websockets.ConnectionClosed as closed:
            if socket is self._socket:
                self.is_open.clear()
            code = closed.rcvd.code if closed.rcvd else 1006
            if code in FINAL_CODES and not self._is_closed:
                self._end = VoxtralError(FINAL_CODES[code])
                raise self._end from closed
            return None
        except websockets.ConcurrencyError as error:
            raise VoxtralError("the events of this session are being read already") from error
        message = self._whole.popleft()
        self._journal.take(message)
        self.stats_answered += "stats" in message
        return message

    def _take(self, frame: str | bytes) -> None:
        """One frame of the worker's. Sound belongs to the message right before it."""
        spoken, self._spoken = self._spoken, None
        if isinstance(frame, bytes):
            if spoken is not None:
                self._whole.append({**spoken, SOUND: frame})
            return
        if spoken is not None:
            # One that is repeated after a lost connection has no sound.
            self._whole.append(spoken)
        message: dict[str, Any] = json.loads(frame)
        if message.get("type") == "audio":
            self._spoken = message
        else:
            self._whole.append(message)

    def _noted(self, message: dict[str, Any]) -> dict[str, Any]:
        if message.get("type") != "heartbeat":
            self._last_seq = max(self._last_seq, message.get("seq", 0))
        is_of_one = "turn_id" in message or "request_id" in message
        if message.get("code") == "RATE_LIMITED" and not is_of_one:
            # What was over the limit is gone, and with it the count that a resume relies on.
            self._end = VoxtralError(message["error"], code="RATE_LIMITED")
            raise self._end
        return message

    async def _come_back(self) -> None:
        try:
            self._early.extend(await self._retry.run(self._reopen))
        except VoxtralError:
            # One that was closed meanwhile has no need of it.
            if not self._is_closed:
                raise

    def _know(self, session: dict[str, Any]) -> None:
        """Remember what the worker says of the session that it has opened."""
        self.session_id, self._path = session["session_id"], session["websocket_url"]

    async def _reopen(self) -> list[dict[str, Any]]:
        """Open a connection once; what came until it was resumed. Raises VoxtralError."""
        try:
            async with self._sending:
                # Two readers may have found it lost.
                return [] if self.is_open.is_set() else await self._open()
        except websockets.InvalidStatus as refused:
            answer = refused.response
            raise refusal(answer.status_code, answer.headers, answer.body or b"") from refused
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise unreachable(error) from error

    async def _open(self) -> list[dict[str, Any]]:
        address = self._rest.url.replace("http", "ws", 1) + self._path
        address += f"{'&' if '?' in address else '?'}last_seq={self._last_seq}"
        self._require_alive()
        if self._socket is not None:
            self._socket.transport.abort()
        # What nobody has read of the lost connection comes again.
        self._spoken = None
        self._whole.clear()
        self._socket = await connect(address, additional_headers=self._rest.headers)
        try:
            return await self._resume(self._socket)
        except BaseException:
            self._socket.transport.abort()
            raise

    async def _resume(self, socket: ClientConnection) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(RESUME_TIMEOUT_S):
                while (message := await self._receive()) is not None:
                    messages.append(message)
                    if self.session_id is None:
                        self._take_session(message)
                    if message.get("status") == "resumed":
                        return messages + await self._go_on(socket, message)
        except TimeoutError:
            raise ConnectionError("the worker did not resume the session in time") from None
        raise ConnectionError("the connection was lost before it was resumed")

    def _take_session(self, message: dict[str, Any]) -> None:
        if message["type"] == "error":
            code = message["code"]
            raise VoxtralError(message["error"], code=code, may_pass=code != "INVALID_REQUEST")
        if "websocket_url" in message:
            self._know(message)

    async def _go_on(
        self, socket: ClientConnection, resumed: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Send what was not taken; failures of the texts of which that is not known."""
        lost = self._journal.give_up_texts() if resumed.get("missed") else []
        for frame in self._journal.missing(resumed["audio_bytes_received"]):
            await socket.send(frame)
        self._waiting_bytes = 0
        self.stats_answered = self.stats_asked
        self.is_open.set()
        return [_unknown(request_id) for request_id in lost]


def _unknown(request_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": "the worker no longer holds what it said while the connection was lost, so it is "
        "not known whether it took this text",
        "code": "MESSAGES_MISSED",
        "request_id": request_id,
    }
