"""A client for the tests, in terms of the protocol's messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
import websockets

WAIT_S = 45.0


class Talker:
    """One open WebSocket."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def control(self, control_type: str, **fields: Any) -> None:
        await self.send({"type": "control", "control_type": control_type, **fields})

    async def text(self, text: str, **fields: Any) -> None:
        await self.send({"type": "text_input", "text": text, **fields})

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        self.seen.append(message)
        return message

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        while True:
            message = await self.next()
            if message["type"] == kind and fields.items() <= message.items():
                return message

    async def status(self, status: str) -> dict[str, Any]:
        return await self.until("status", status=status)

    async def closed(self) -> int:
        """Read to the end; the close code."""
        try:
            while True:
                await self.next()
        except websockets.ConnectionClosed:
            return int(self.socket.close_code)


async def create(url: str, **request: Any) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/session/create", **request) as response,
    ):
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def new_session(url: str, **config: object) -> str:
    """The id of a new session with these options."""
    return str((await create(url, json={"config": config}))["session_id"])


async def delete(url: str, session_id: str) -> None:
    """End a session."""
    async with aiohttp.ClientSession() as http, http.delete(f"{url}/session/{session_id}"):
        pass


def address_of(url: str, line: str, session_id: str) -> str:
    """The address of a session's socket."""
    return f"{url.replace('http', 'ws', 1)}/ws/{line}/{session_id}"


@asynccontextmanager
async def open_socket(address: str, **query: str) -> AsyncIterator[Talker]:
    """A socket at an address with these fields in its query."""
    full = f"{address}?{urlencode(query)}" if query else address
    async with websockets.connect(full, max_size=None) as socket:
        yield Talker(socket)


@asynccontextmanager
async def talk(
    server: Any, session_id: str | None = None, line: str = "audio", query: str = "", **options: Any
) -> AsyncIterator[Talker]:
    if session_id is None:
        session_id = (await create(server.url))["session_id"]
    address = f"{server.ws_url}/ws/{line}/{session_id}{query}"
    async with websockets.connect(address, max_size=None, **options) as socket:
        yield Talker(socket)
