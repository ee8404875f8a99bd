"""What the tests of the realtime socket say and hear through OpenAI's own client."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from tests.support.embedded_server import MODEL, WAIT_S

CHUNK_BYTES = 9600


class Caller:
    """One connection, and every event that came over it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.seen: list[Any] = []

    async def next(self) -> Any:
        async with asyncio.timeout(WAIT_S):
            event = await self.connection.recv()
        self.seen.append(event)
        return event

    async def until(self, kind: str) -> Any:
        while True:
            event = await self.next()
            if event.type == kind:
                return event

    async def error(self) -> Any:
        return (await self.until("error")).error

    async def update(self, **session: Any) -> Any:
        await self.connection.session.update(session={"type": "realtime", **session})
        return (await self.until("session.updated")).session

    async def append(self, audio: bytes) -> None:
        for start in range(0, len(audio), CHUNK_BYTES):
            chunk = base64.b64encode(audio[start : start + CHUNK_BYTES]).decode()
            await self.connection.input_audio_buffer.append(audio=chunk)

    async def say(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.connection.conversation.item.create(item=item)

    async def answer(self) -> Any:
        return (await self.until("response.done")).response

    def kinds(self) -> list[str]:
        """Types of the events so far; a run of deltas counts as one."""
        kinds: list[str] = []
        for event in self.seen:
            if not (kinds and kinds[-1] == event.type and event.type.endswith("delta")):
                kinds.append(event.type)
        return kinds


def words(response: Any) -> str:
    (item,) = response.output
    return str(item.content[0].text)


def manual() -> dict[str, Any]:
    """The client says when a turn is over."""
    return {"input": {"turn_detection": None}}


@asynccontextmanager
async def calling(client: AsyncOpenAI, **options: Any) -> AsyncIterator[Caller]:
    async with client.realtime.connect(model=MODEL, **options) as connection:
        caller = Caller(connection)
        created = await caller.next()
        assert created.type == "session.created"
        yield caller
