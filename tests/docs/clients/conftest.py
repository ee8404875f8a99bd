"""A server with the embedded model that takes any model's name, as real clients meet it."""

from collections.abc import Iterator

import pytest

from tests.support.embedded_server import EmbeddedServer
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import open_speech


@pytest.fixture(scope="session")
def aliased() -> Iterator[EmbeddedServer]:
    # As a worker that is installed whole: voice frameworks ask for answers that are spoken.
    voice = open_speech(Settings(speech="embedded"))
    server = EmbeddedServer(voice, model_aliases=("*",), api_keys=())
    yield server
    server.stop()
