"""A real server on a free loopback port, with real ears and an engine that says what it is told."""

import json
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.redis_server import RedisServer
from tests.server.redis_server import redis_or_skip
from tests.server.running import RunningServer, free_port
from voxtral_worker.server.shared import redis_link
from voxtral_worker.settings import EMBEDDED_MODEL, Settings
from voxtral_worker.turns.vad import Vad


@pytest.fixture(scope="session")
def vad() -> Iterator[Vad]:
    running = Vad()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def start_server(vad: Vad) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers with settings of the test's own; no limits unless asked for."""
    running: list[RunningServer] = []

    def start(*, ready: bool = True, **settings: Any) -> RunningServer:
        defaults = Settings(host="127.0.0.1", port=free_port(), rate_limit_enabled=False)
        server = RunningServer(replace(defaults, **settings), vad)
        running.append(server)
        if ready:
            server.become_ready()
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., RunningServer]) -> RunningServer:
    return start_server()


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis of the test's own, empty, and waited for on a busy machine too."""
    monkeypatch.setattr(redis_link, "PATIENCE_S", 10.0)
    server = redis_or_skip()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A spoken sentence with silence around it, 16-bit samples at 16 kHz."""
    folder = Path(EMBEDDED_MODEL) / "clips"
    name = next(iter(json.loads((folder / "index.json").read_text())))
    with wave.open(str(folder / name)) as file:
        speech = file.readframes(file.getnframes())
    return bytes(9600) + speech + bytes(32_000)
