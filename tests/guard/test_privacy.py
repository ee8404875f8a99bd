"""What people say is in memory while it is needed: not in a log, not in a file, not afterwards."""

import asyncio
import base64
import gc
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import contains
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.support.file_watch import FolderWatch, held_files
from tests.support.job_api import FakeJobApi, WorkerProcess
from tests.support.running_server import RunningServer
from tests.support.talker import create, talk
from voxtral_worker.engine.conversation import Audio, Exchange, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.response import Response
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.logs import session_mark
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.lifecycle import Parts
from voxtral_worker.sessions.session import Session
from voxtral_worker.sessions.turn import Turn
from voxtral_worker.settings import REPOSITORY
from voxtral_worker.turns.vad import Vad, _Task

Start = Callable[..., RunningServer]
WORD = "zanzibar-7341-quagga"
OF_A_SESSION = (
    Session, Driver, Connection, Turn, UserTurn, Exchange, Audio, Generation, Response, Sequence,
    _Task,
)  # fmt: skip
WAIT_S = 60.0


def wave(pcm: bytes) -> bytes:
    sizes = [(36 + len(pcm)).to_bytes(4, "little"), len(pcm).to_bytes(4, "little")]
    head = bytes.fromhex("666d74201000000001000100803e0000007d00000200100064617461")
    return b"RIFF" + sizes[0] + b"WAVE" + head + sizes[1] + pcm


def traces_of(pcm: bytes) -> list[bytes]:
    """Pieces by which a sound would be found: as samples of either kind, and in base64."""
    samples = np.frombuffer(pcm, "<i2")
    loud = [at for at in range(0, len(samples) - 64, 640) if np.ptp(samples[at : at + 64]) > 500]
    assert len(loud) > 10
    found = []
    for at in loud:
        window = samples[at : at + 64]
        raw = window.tobytes()
        found += [raw, (window / np.float32(32768)).astype("<f4").tobytes(), raw.hex().encode()]
        # Base64 of the same bytes differs with where they stand among groups of three.
        found += [base64.b64encode(raw[skip:])[:-4] for skip in range(3)]
    return found


def found_in(data: bytes, traces: list[bytes]) -> list[bytes]:
    return [trace for trace in traces if trace in data]


def test_traces_find_a_sound_in_each_of_its_forms(clip: bytes) -> None:
    traces = traces_of(clip)
    floats = (np.frombuffer(clip, "<i2") / np.float32(32768)).astype("<f4").tobytes()
    for form in (clip, wave(clip), floats, base64.b64encode(clip), base64.b64encode(wave(clip))):
        assert len(found_in(form, traces)) >= len(traces) / 7
    assert not found_in(clip[::-1], traces)


@pytest.fixture
def api() -> Iterator[FakeJobApi]:
    started = FakeJobApi()
    yield started
    started.close()


async def converse(url: str, clip: bytes) -> tuple[str, list[str]]:
    """A text and a sentence said to a session that is then deleted; what was answered."""
    session = await create(url, json={"config": {"system_prompt": WORD, "mode": "transcribe"}})
    async with aiohttp.ClientSession() as http:
        address = url.replace("http", "ws") + session["websocket_url"]
        async with http.ws_connect(address) as socket:
            await socket.send_json({"type": "text_input", "text": WORD, "request_id": WORD})
            await socket.send_json({"type": "text_input", "text": 7, WORD: WORD})
            await socket.send_json({"type": "config_update", "config": {WORD: WORD}})
            await socket.send_bytes(clip)
            answers: list[str] = []
            while len(answers) < 2:
                message = await asyncio.wait_for(socket.receive_json(), WAIT_S)
                if message["type"] == "text_response":
                    answers.append(message["text"])
    return session["session_id"], answers


def give_jobs(api: FakeJobApi, clip: bytes) -> None:
    sound = base64.b64encode(wave(clip)).decode()
    api.give("text", type="text", text=WORD, max_length=8, stream=True)
    api.give("transcribe", type="transcribe", audio_base64=sound, stream=True)
    api.give("audio", type="audio", audio_base64=sound, text=WORD, max_length=8)
    api.give("bad", type="text", text=WORD, language=WORD)
    api.give("far", type="transcribe", audio_url=f"http://127.0.0.1/{WORD}")


def test_neither_sound_nor_words_are_in_the_log_or_in_any_file(
    api: FakeJobApi, tmp_path: Path, clip: bytes
) -> None:
    folders = {name: tmp_path / name for name in ("work", "home", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    worker = WorkerProcess.on_queue(
        api,
        folders["work"] / "log",
        REPOSITORY / "tests/support/audited_handler.py",
        HOME=str(folders["home"]),
        TMPDIR=str(folders["tmp"]),
    )
    try:
        api.give("first", type="health")
        api.wait(lambda: "first" in api.done, 60)
        at_start = len(worker.log)
        watch = FolderWatch(folders.values())
        give_jobs(api, clip)
        session_id, answers = asyncio.run(converse(f"http://127.0.0.1:{worker.port}", clip))
        for name in ("text", "transcribe", "audio", "bad", "far"):
            api.wait(partial(contains, api.done, name), 60)
        held = {path: data for pid in worker.group() for path, data in held_files(pid).items()}
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0, worker.log
        written = watch.names()
        watch.close()
    finally:
        worker.kill()
    assert written == {"log"}
    files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.endswith("/log") for path in held)
    traces = [*traces_of(clip), WORD.encode()]
    for path, data in {**files, **held}.items():
        assert found_in(data, traces) == [], path
    log = worker.log
    assert f"session={session_mark(session_id)}" in log
    assert session_id not in log
    written_down = api.done["transcribe"][0]["output"][-1]["text"]
    # What the tiny model answers to a text may be as short as a word of the log.
    assert len(written_down) > 12
    assert len(answers[1]) > 12
    for said in (*answers, written_down):
        assert len(said) < 6 or said not in log
    # Shared memory of Python's own pool; it was among what the processes held.
    opened = [line for line in log[at_start:].splitlines() if "opened for writing" in line]
    assert [line for line in opened if "/dev/shm/pym-" not in line] == []


class Real:
    """A server over the real model, and what of its sessions is alive."""

    def __init__(self, server: RunningServer, core: EngineCore) -> None:
        self.server = server
        self.core = core
        # What other tests hold stays out of the count.
        self._before = {id(found) for found in self._all()}

    @staticmethod
    def _all() -> list[Any]:
        gc.collect()
        return [found for found in gc.get_objects() if type(found) in OF_A_SESSION]

    def alive(self) -> set[str]:
        return {type(found).__name__ for found in self._all() if id(found) not in self._before}

    def expire(self) -> None:
        """Every session has been quiet for too long."""

        async def expire() -> None:
            for conversation in self.server.thread.service.sessions.registry.everyone():
                conversation.session.last_activity_s = time.monotonic() - 10_000

        self.server.thread.call(expire())

    async def until_nothing_is_left(self) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while alive := self.alive():
            assert time.monotonic() < deadline_s, alive
            await asyncio.sleep(0.05)


@pytest.fixture
def start_real(start_server: Start, loaded: LoadedModel, vad: Vad) -> Iterator[Callable[..., Real]]:
    engines: list[Engine] = []

    def start(**settings: Any) -> Real:
        server = start_server(ready=False, **settings)
        core = EngineCore(loaded, server.settings)
        engines.append(Engine(core))
        engines[-1].start()
        server.thread.become_ready(Parts(engines[-1], vad, loaded))
        return Real(server, core)

    yield start
    for engine in engines:
        engine.stop()


async def talk_a_little(real: Real, clip: bytes) -> str:
    config = {"max_length": 8, "temperature": 0}
    session = await create(real.server.url, json={"config": config})
    async with talk(real.server, session["session_id"]) as talker:
        await talker.text(WORD)
        await talker.until("text_response")
        await talker.send(clip)
        await talker.until("text_response")
        assert real.alive() >= {"Session", "Driver", "Connection", "Exchange", "Audio"}
        assert real.core.scheduler.cache.kept > 0
    return str(session["session_id"])


async def test_of_a_deleted_session_only_cached_answers_are_left(
    start_real: Callable[..., Real], clip: bytes
) -> None:
    real = start_real()
    session_id = await talk_a_little(real, clip)
    async with aiohttp.ClientSession() as http:
        await http.delete(f"{real.server.url}/session/{session_id}")
    await real.until_nothing_is_left()
    assert real.core.scheduler.cache.kept == 0
    # By a hash of what was asked; what was asked itself is gone.
    assert real.core.outputs.cache.answers == 2


async def test_of_an_expired_session_nothing_is_left_where_the_cache_is_off(
    start_real: Callable[..., Real], clip: bytes
) -> None:
    real = start_real(response_cache_size=0)
    await talk_a_little(real, clip)
    await asyncio.to_thread(real.expire)
    await real.until_nothing_is_left()
    assert real.core.scheduler.cache.kept == 0
    assert real.core.outputs.cache.answers == 0
