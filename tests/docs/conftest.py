"""What the documents' examples are run against."""

import wave
from collections.abc import Iterator

import pytest

from bench.workers import running_worker
from tests.server.conftest import start_server, vad
from voxtral_worker.settings import EMBEDDED_MODEL

__all__ = ["start_server", "vad"]

# So short a context that the second spoken turn leaves out the first.
SETTINGS = {"MAX_CONTEXT_TOKENS": "800", "HEARTBEAT_INTERVAL_SECONDS": "0.5"}


@pytest.fixture(scope="package")
def worker() -> Iterator[str]:
    with running_worker(**SETTINGS) as url:
        yield url


@pytest.fixture(scope="package")
def spoken() -> bytes:
    """“Turn on the kitchen light” and the silence that ends it."""
    with wave.open(str(EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav")) as file:
        return file.readframes(file.getnframes()) + bytes(32_000)
