"""One server with the embedded model, and OpenAI's own client."""

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

from tests.support.embedded_server import EmbeddedServer


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedServer]:
    server = EmbeddedServer()
    yield server
    server.stop()


@pytest.fixture
async def client(embedded: EmbeddedServer) -> AsyncIterator[AsyncOpenAI]:
    async with embedded.client() as client:
        yield client
