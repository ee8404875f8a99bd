"""The servers of tests/server and the model of tests/engine, for tests that attack them."""

from tests.engine.conftest import loaded
from tests.server.conftest import clip, redis, server, start_server, vad

__all__ = ["clip", "loaded", "redis", "server", "start_server", "vad"]
