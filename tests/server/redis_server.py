"""The real Redis of the tests, or a line that says how to get it."""

import os

import pytest

from bench.redis_server import RedisServer


def redis_or_skip() -> RedisServer:
    """Not started yet; where CI runs it must be there."""
    if not RedisServer.is_installed():
        line = "the tests of several workers need Redis: apt-get install redis-server"
        if os.environ.get("CI") == "true":
            pytest.fail(line)
        pytest.skip(line)
    return RedisServer()
