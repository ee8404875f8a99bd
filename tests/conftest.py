"""What tests of several folders talk to; a folder's own fixtures go before these."""

import signal
from collections.abc import Iterator

import pytest

from tests.server.conftest import start_server, vad
from tests.support.workers import running_worker

# Processes under test inherit whether Ctrl-C is ignored, as it is for what a shell runs behind.
signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["start_server", "vad"]

# So short a context that two spoken turns do not fit: the second leaves the first out.
SETTINGS = {"MAX_CONTEXT_TOKENS": "1000", "HEARTBEAT_INTERVAL_SECONDS": "1"}


@pytest.fixture(scope="session")
def worker() -> Iterator[str]:
    """The URL of one real worker with the embedded model, without limits and credentials."""
    with running_worker(**SETTINGS) as url:
        yield url
