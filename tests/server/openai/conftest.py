"""One server with the embedded model, and OpenAI's own client."""

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI

from tests.support.embedded_server import EmbeddedServer
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import open_speech


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedServer]:
    server = EmbeddedServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def voiced() -> Iterator[EmbeddedServer]:
    """A server that has the embedded voice too."""
    server = EmbeddedServer(open_speech(Settings(speech="embedded")))
    yield server
    server.stop()


@pytest.fixture
async def client(embedded: EmbeddedServer) -> AsyncIterator[AsyncOpenAI]:
    async with embedded.client() as client:
        yield client
