"""A caller with a credential who means ill: what attacks are made of."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import aiohttp

from tests.support import attack_bodies as bodies

# An attack has so long to get its last answers, and is then cut short.
LAST_ANSWERS_S = 30.0


class Stranger:
    """A caller with a credential, who comes from a new address each time.

    Limits by address alone would otherwise end most attacks after a few calls.
    """

    def __init__(self, url: str, key: str, seconds: float) -> None:
        self.url = url
        self.key = key
        self.answers: Counter[str] = Counter()
        self.model = ""
        self.seconds = seconds
        self._until_s: float | None = None
        self._rng = random.Random()

    @property
    def goes_on(self) -> bool:
        """Whether there is time left, which runs from the first time that this is asked."""
        # What has to be made first is not part of the attack.
        if self._until_s is None:
            self._until_s = time.monotonic() + self.seconds
        return time.monotonic() < self._until_s

    def address(self) -> str:
        """Some address of this machine's own."""
        return ".".join(["127", *(str(self._rng.randint(1, 250)) for _ in range(3))])

    def http(self) -> aiohttp.ClientSession:
        """A client at a new address."""
        connector = aiohttp.TCPConnector(local_addr=(self.address(), 0))
        return aiohttp.ClientSession(
            self.url,
            connector=connector,
            headers={"X-API-Key": self.key},
            timeout=aiohttp.ClientTimeout(LAST_ANSWERS_S),
        )

    async def call(self, method: str, path: str, **what: Any) -> None:
        """One call, whose status counts."""
        try:
            async with self.http() as http, http.request(method, path, **what) as response:
                await response.read()
                self.answers[str(response.status)] += 1
        except TimeoutError:
            self.answers["no answer"] += 1
        except aiohttp.ClientError:
            self.answers["closed"] += 1

    async def repeat(self, method: str, path: str, *, at_once: int = 2, **what: Any) -> None:
        """The same call again and again, a few side by side."""

        async def again() -> None:
            while self.goes_on:
                await self.call(method, path, **what)

        await asyncio.gather(*[again() for _ in range(at_once)])

    async def post_json(self, path: str, body: bytes, **more: Any) -> None:
        """Repeat a call with a body of JSON."""
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        await self.repeat("POST", path, data=body, headers=headers, **more)

    async def transcribe(self, file: bytes) -> None:
        """Repeat a transcription."""
        body = bodies.form_with(self.model, file)
        path = "/v1/audio/transcriptions"
        await self.repeat("POST", path, data=body, headers={"Content-Type": bodies.FORM})

    @contextlib.asynccontextmanager
    async def session(self, **config: Any) -> AsyncIterator[dict[str, Any]]:
        """A session, deleted at the end."""
        async with self.http() as http:
            async with http.post("/session/create", json={"config": config}) as response:
                made = await response.json()
            if response.status != 200:
                raise aiohttp.ClientConnectionError(f"no session: {made}")
            try:
                yield made
            finally:
                await http.delete(f"/session/{made['session_id']}")

    @contextlib.asynccontextmanager
    async def socket(
        self, *, compress: int = 0, **config: Any
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The audio socket of a session of its own."""
        async with (
            self.session(**config) as made,
            self.http() as http,
            http.ws_connect(made["websocket_url"], compress=compress, max_msg_size=0) as socket,
        ):
            yield socket

    @contextlib.asynccontextmanager
    async def realtime(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The socket of OpenAI's dialect."""
        async with self.http() as http, http.ws_connect("/v1/realtime", max_msg_size=0) as socket:
            yield socket

    async def storm(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        frames: Iterable[str | bytes | None],
        *,
        reads: bool = True,
    ) -> None:
        """Send as fast as it is taken, until the time is over or it is closed. None: a ping."""
        hearing = asyncio.create_task(self.hear(socket)) if reads else None
        try:
            for frame in frames:
                if socket.closed or not self.goes_on:
                    break
                if frame is None:
                    await socket.ping()
                elif isinstance(frame, str):
                    await socket.send_str(frame)
                else:
                    await socket.send_bytes(frame)
                # What has been written without waiting would leave no time to read.
                await asyncio.sleep(0)
        except ConnectionError:
            self.answers["closed"] += hearing is None
        finally:
            if hearing is not None:
                await asyncio.wait([hearing], timeout=0.5)
                hearing.cancel()
            else:
                self.answers["unread"] += 1
            if socket.close_code is not None:
                self.answers[f"close {socket.close_code}"] += 1

    async def hear(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Count what comes."""
        async for frame in socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                self.answers[_named(json.loads(frame.data))] += 1

    async def storms(self, frames: Callable[[], Iterable[str | bytes | None]], **how: Any) -> None:
        """One storm after the other, each in a new session."""
        reads = how.pop("reads", True)
        while self.goes_on:
            try:
                async with self.socket(**how) as socket:
                    await self.storm(socket, frames(), reads=reads)
            except aiohttp.WSServerHandshakeError as error:
                self.answers[str(error.status)] += 1
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                self.answers["closed"] += 1

    async def say_in_realtime(self, frames: Callable[[], Iterable[str]]) -> None:
        """One storm after the other in OpenAI's dialect."""
        while self.goes_on:
            try:
                async with self.realtime() as socket:
                    await self.storm(socket, frames())
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                self.answers["closed"] += 1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection."""
        host, _, port = self.url.rpartition("//")[2].partition(":")
        return await asyncio.open_connection(host, int(port), local_addr=(self.address(), 0))

    async def hold_open(self, connections: int, begin: bytes, trickle: bytes) -> None:
        """Connections that send so much at first, then a byte now and then, and never end."""
        lines = []
        for _ in range(connections):
            with contextlib.suppress(OSError):
                lines.append(await self.connect())
                lines[-1][1].write(begin)
        while self.goes_on:
            await asyncio.sleep(0.25)
            for _, writer in lines:
                if not writer.is_closing():
                    writer.write(trickle)
        for reader, writer in lines:
            self.answers["closed" if writer.is_closing() or reader.at_eof() else "open"] += 1
            writer.close()


def _named(message: dict[str, Any]) -> str:
    if message["type"] == "error":
        error = message.get("error")
        return str(
            error.get("code") or error["type"] if isinstance(error, dict) else message["code"]
        )
    return str(message["type"])
