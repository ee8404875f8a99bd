"""What becomes of a real worker process whose jobs are stopped or whose model fails."""

import asyncio
import base64
import io
import json
import random
import signal
import urllib.request
from collections.abc import Iterator
from functools import partial
from operator import contains
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.job_api import FakeJobApi, WorkerProcess
from tests.support.ports import is_listening
from voxtral_worker.settings import REPOSITORY

FAULTY = REPOSITORY / "tests" / "support" / "faulty_handler.py"
SHORT = {"type": "text", "text": "hello", "temperature": 0, "max_length": 8}
# Hot enough to continue without end, and never the same.
LONG = {"type": "text", "texts": ["hello"] * 400, "temperature": 2, "max_length": 4096}


@pytest.fixture(scope="module")
def api() -> Iterator[FakeJobApi]:
    started = FakeJobApi()
    yield started
    started.close()


@pytest.fixture(scope="module")
def faulty_worker(
    api: FakeJobApi, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    started = WorkerProcess.on_queue(
        api,
        tmp_path_factory.mktemp("worker") / "log",
        FAULTY,
        MAX_BATCH_SIZE="4",
        RESPONSE_CACHE_SIZE="0",
    )
    yield started
    started.kill()


@pytest.fixture(scope="module")
def two_minutes() -> str:
    """Speech in base64, of several windows."""
    clips = sorted((REPOSITORY / "models" / "voxtral-tiny" / "clips").glob("*.wav"))
    samples = np.concatenate([soundfile.read(clip)[0] for clip in clips])
    file = io.BytesIO()
    soundfile.write(file, np.tile(samples, 120 * 16_000 // len(samples) + 1), 16_000, format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def kind_of_job(number: int, clip: str) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = [
        {**LONG, "stream": True},
        LONG,
        {"type": "transcribe", "audio_base64": clip, "stream": True},
        {"type": "session", "ttl_seconds": 3600, "idle_seconds": 3600},
    ]
    return kinds[number % len(kinds)]


def test_jobs_stopped_at_any_moment_leave_the_engine_and_the_sessions_empty(
    api: FakeJobApi, faulty_worker: WorkerProcess, two_minutes: str
) -> None:
    api.give("first", **SHORT)
    expected = api.result("first")
    moments = random.Random(7)
    for number in range(16):
        name = f"stopped-{number}"
        api.give(name, **kind_of_job(number, two_minutes))
        api.wait(partial(contains, api.taken, name))
        with api.changed:
            # Nothing is awaited: the pause only spreads the stops over a job's life.
            pause_s = moments.choice([0.0, moments.uniform(0.0, 0.6)])
            api.changed.wait_for(lambda: False, pause_s)
        api.stop(name)
    api.give("after", **SHORT)
    assert texts(api.result("after")) == texts(expected)
    # Left alone, the long ones would take half an hour, and the sessions longer.
    faulty_worker.until(faulty_worker.is_idle, 120)
    # Who was quicker than its stop was answered, once and with its output: no long job was.
    answered = {name for name in api.done if name.startswith("stopped-")}
    assert all("output" in api.result(name) for name in answered)
    assert answered <= {f"stopped-{number}" for number in range(2, 16, 4)}
    assert "Traceback" not in faulty_worker.log


def texts(answer: Any) -> Any:
    return [piece["text"] for piece in answer["output"]]


def test_a_fault_in_mid_stream_fails_that_job_without_a_traceback(tmp_path: Path) -> None:
    api = FakeJobApi()
    faulty_worker = WorkerProcess.on_queue(api, tmp_path / "log", FAULTY, MAX_BATCH_SIZE="1")
    try:
        fail_in_mid_stream(api, faulty_worker)
    finally:
        faulty_worker.kill()
        api.close()


def fail_in_mid_stream(api: FakeJobApi, faulty_worker: WorkerProcess) -> None:
    api.give("before", **SHORT)
    expected = api.result("before")
    for number in range(3):
        name = f"fails-{number}"
        api.give(name, **LONG, stream=True)
        api.wait(partial(contains, api.streamed, name))
        faulty_worker.signal(signal.SIGUSR1)
        error = api.result(name).get("error")
        assert error == "the model failed on this request (PROCESSING_ERROR)"
        told = [piece["output"] for piece in api.streamed[name]]
        assert told[-1] == {
            "failed": "the model failed on this request",
            "code": "PROCESSING_ERROR",
        }
        assert any("delta" in piece for piece in told)
    api.give("after", **SHORT)
    assert texts(api.result("after")) == texts(expected)
    assert faulty_worker.figure("voxtral_engine_failures_total") == 3
    faulty_worker.until(faulty_worker.is_idle)
    assert '"status": "healthy"' in faulty_worker.get("/health")


def test_a_fault_in_a_step_of_many_is_no_ones_loss(
    api: FakeJobApi, faulty_worker: WorkerProcess
) -> None:
    api.give("alone", **{**SHORT, "max_length": 40})
    expected = texts(api.result("alone"))
    many = [f"one-of-many-{number}" for number in range(4)]
    for name in many:
        api.give(name, type="text", texts=["hello"] * 40, temperature=0, max_length=40)
    api.wait(lambda: set(many) <= set(api.taken))
    faulty_worker.signal(signal.SIGUSR1)
    answers = [texts(api.result(name)) for name in many]
    assert answers == [expected * 40] * 4
    assert faulty_worker.figure("voxtral_engine_failures_total") == 0
    faulty_worker.until(faulty_worker.is_idle)


def test_a_lost_device_ends_a_queue_worker_which_takes_no_more_jobs(tmp_path: Path) -> None:
    api = FakeJobApi()
    faulty_worker = WorkerProcess.on_queue(api, tmp_path / "log", FAULTY)
    try:
        api.give("before", **SHORT)
        api.result("before")
        faulty_worker.signal(signal.SIGUSR2)
        api.give("meets-the-loss", type="text", text="good night")
        assert "error" in api.result("meets-the-loss")
        assert faulty_worker.wait(60) == 1
        api.give("too-late", **SHORT)
        assert "too-late" not in api.taken
        assert not is_listening(faulty_worker.port)
    finally:
        faulty_worker.kill()
        api.close()


def test_a_lost_device_ends_a_pods_worker_and_tells_who_talks(tmp_path: Path) -> None:
    faulty_worker = WorkerProcess(
        tmp_path / "log", script=FAULTY, RUNPOD_POD_ID="pod-test", RATE_LIMIT_ENABLED="false"
    )
    try:
        faulty_worker.until_log_has("worker: ready")
        assert asyncio.run(talk_until_lost(faulty_worker)) == 1012
        assert faulty_worker.wait(60) == 1
        assert not is_listening(faulty_worker.port)
    finally:
        faulty_worker.kill()


def new_session(faulty_worker: WorkerProcess) -> str:
    """The address of a session's audio socket."""
    address = f"127.0.0.1:{faulty_worker.port}"
    create = urllib.request.Request(f"http://{address}/session/create", method="POST")
    with urllib.request.urlopen(create, timeout=10) as answer:
        return f"ws://{address}{json.load(answer)['websocket_url']}"


async def talk_until_lost(faulty_worker: WorkerProcess) -> int:
    """The code that a talker's socket is closed with."""
    async with connect(await asyncio.to_thread(new_session, faulty_worker)) as socket:
        faulty_worker.signal(signal.SIGUSR2)
        await socket.send(json.dumps({"type": "text_input", "text": "hello"}))
        codes = []
        try:
            async with asyncio.timeout(60):
                while True:
                    codes.append(json.loads(await socket.recv()).get("code"))
        except ConnectionClosed as closed:
            assert "PROCESSING_ERROR" in codes
            assert closed.rcvd is not None
            return closed.rcvd.code
