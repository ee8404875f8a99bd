"""What the documents' examples are run against."""

import wave

import pytest

from voxtral_worker.settings import EMBEDDED_MODEL


@pytest.fixture(scope="package")
def spoken() -> bytes:
    """“Turn on the kitchen light” and the silence that ends it."""
    with wave.open(str(EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav")) as file:
        return file.readframes(file.getnframes()) + bytes(32_000)
