"""The servers of tests/server, for tests that attack them."""

from tests.server.conftest import server, start_server, vad

__all__ = ["server", "start_server", "vad"]
