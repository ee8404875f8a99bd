"""What tests of several folders talk to; a folder's own fixtures go before these."""

import json
import signal
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded_model import EMBEDDED
from tests.support.light_model import load_light_model, write_light_model
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_or_skip
from tests.support.running_server import RunningServer
from tests.support.settings import changed
from tests.support.talking_server import TalkingServer
from tests.support.workers import running_worker
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.server.shared import redis_link
from voxtral_worker.settings import EMBEDDED_MODEL, Settings
from voxtral_worker.turns.vad import Vad

# Processes under test inherit whether Ctrl-C is ignored, as it is for what a shell runs behind.
signal.signal(signal.SIGINT, signal.default_int_handler)

# So short a context that two spoken turns do not fit: the second leaves the first out.
SETTINGS = {"MAX_CONTEXT_TOKENS": "1000", "HEARTBEAT_INTERVAL_SECONDS": "1"}


@pytest.fixture(scope="session")
def worker() -> Iterator[str]:
    """The URL of one real worker with the embedded model, without limits and credentials."""
    with running_worker(**SETTINGS) as url:
        yield url


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """The embedded model, loaded once."""
    return load_model(EMBEDDED)


@pytest.fixture(scope="session")
def light_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose windows cost little; see `tests/support/light_model.py`."""
    folder = tmp_path_factory.mktemp("light") / "model"
    write_light_model(folder)
    return folder


@pytest.fixture(scope="session")
def light(light_folder: Path) -> LoadedModel:
    """Its model, loaded once."""
    return load_light_model(light_folder)


@pytest.fixture
def core(loaded: LoadedModel) -> EngineCore:
    """The parts of the test's engine, for a test that changes one or looks at one."""
    return EngineCore(loaded, EMBEDDED)


@pytest.fixture
def engine(core: EngineCore) -> Iterator[Engine]:
    """An engine of the test's own."""
    running = Engine(core)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def vad() -> Iterator[Vad]:
    """The real ears of all servers."""
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
        server = RunningServer(changed(defaults, **settings), vad)
        running.append(server)
        if ready:
            server.become_ready()
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., RunningServer]) -> RunningServer:
    """A server on a free loopback port, with real ears, and an engine that a test controls."""
    return start_server()


@pytest.fixture
def talking(start_server: Callable[..., RunningServer]) -> Iterator[TalkingServer]:
    """A server that speaks."""
    talking = TalkingServer(start_server(ready=False))
    yield talking
    talking.server.stop()
    talking.speech.stop()


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
    folder = EMBEDDED_MODEL / "clips"
    name = next(iter(json.loads((folder / "index.json").read_text())))
    with wave.open(str(folder / name)) as file:
        speech: bytes = file.readframes(file.getnframes())
    return bytes(9600) + speech + bytes(32_000)


@pytest.fixture(scope="session")
def spoken() -> bytes:
    """“Turn on the kitchen light” and the silence that ends it."""
    with wave.open(str(EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav")) as file:
        speech: bytes = file.readframes(file.getnframes())
    return speech + bytes(32_000)
