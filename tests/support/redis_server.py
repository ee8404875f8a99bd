"""A real Redis on a free loopback port, which keeps nothing when it is stopped."""

import os
import shutil
import socket
import subprocess
import time

import pytest

from tests.support.ports import free_port

START_S = 20.0


class RedisServer:
    """Runs from `start` to `stop`, on one port for good; needs Debian's `redis-server`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        """Whether there is a program to run."""
        return shutil.which("redis-server") is not None

    def start(self) -> None:
        """Return when it answers. Raises RuntimeError when it never does."""
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            ["redis-server", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """End it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(START_S)

    def _wait_until_it_answers(self) -> None:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis-server does not answer")


def redis_or_skip() -> RedisServer:
    """Not started yet; where CI runs it must be there."""
    if not RedisServer.is_installed():
        line = "the tests of several workers need Redis: apt-get install redis-server"
        if os.environ.get("CI") == "true":
            pytest.fail(line)
        pytest.skip(line)
    return RedisServer()
