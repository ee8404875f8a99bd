"""The worker as RunPod runs it: the real SDK, the real process, a job API on loopback."""

import base64
import io
import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.job_api import FakeJobApi, WorkerProcess
from tests.support.ports import free_port, is_listening
from voxtral_worker.settings import REPOSITORY

# One answer is short, so it takes many to last.
LONG = {"type": "text", "texts": ["hello"] * 1024, "temperature": 2, "max_length": 4096}


def five_quiet_seconds() -> str:
    noise = np.random.default_rng(1).normal(0, 0.001, 5 * 16_000)
    file = io.BytesIO()
    soundfile.write(file, noise, 16_000, format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def test_a_queue_worker_answers_every_job_once(
    api: FakeJobApi, queue_worker: WorkerProcess
) -> None:
    api.give("j1", type="text", text="hello", max_length=30, temperature=0, stream=True)
    api.give("j2", type="text", texts=["hello", "hello"], max_length=5)
    api.give("j3", type="health")
    api.give("j4", type="text", texts=[])
    api.give("j5", type="transcribe", audio_base64=five_quiet_seconds())
    output = api.result("j1")["output"]
    deltas = [piece["delta"] for piece in output[:-1]]
    assert "".join(deltas) == output[-1]["text"]
    assert [streamed["output"] for streamed in api.streamed["j1"]] == output
    assert [piece["index"] for piece in api.result("j2")["output"]] == [0, 1]
    # There was no speech, so the engine was not asked.
    (written,) = api.result("j5")["output"]
    assert (written["text"], written["usage"]["prompt_tokens"]) == ("", 0)
    assert api.result("j3")["output"][0]["status"] == "healthy"
    assert api.result("j4") == {
        "error": "texts is an empty list, but must be a list of one text or more (INVALID_REQUEST)"
    }
    api.wait(lambda: bool(api.pings))
    # The SDK's own level would write what people say into the log.
    assert output[-1]["text"] not in queue_worker.log

    queue_worker.signal(signal.SIGTERM)
    # Far less than the 90 s that the SDK may leave a question open.
    assert queue_worker.wait(60) == 0, queue_worker.log
    assert not is_listening(queue_worker.port)
    assert queue_worker.left_behind() == []


def test_a_job_that_is_stopped_no_longer_uses_the_engine(
    api: FakeJobApi, queue_worker: WorkerProcess
) -> None:
    api.give("endless", **LONG, stream=True)
    api.wait(lambda: "endless" in api.streamed)
    api.stop("endless")
    api.give("after", type="text", text="hello", max_length=3)
    assert api.result("after")["output"][0]["index"] == 0
    queue_worker.until_log_has("Job stopped.")
    assert "endless" not in api.done


def test_the_test_job_of_the_repository_runs_to_its_end_from_anywhere(tmp_path: Path) -> None:
    queue_worker = WorkerProcess(tmp_path / "log")
    try:
        assert queue_worker.wait(60) == 0, queue_worker.log
        output = json.loads(
            queue_worker.log[queue_worker.log.index("[\n") : queue_worker.log.rindex("]") + 1]
        )
        assert [piece["index"] for piece in output] == [0]
        assert output[0]["usage"]["completion_tokens"] > 0
    finally:
        queue_worker.kill()


def test_a_test_job_that_fails_exits_1(tmp_path: Path) -> None:
    queue_worker = WorkerProcess(tmp_path / "log", ("--test_input", '{"input": {"type": "text"}}'))
    try:
        assert queue_worker.wait(60) == 1, queue_worker.log
        assert "the test job failed: exactly one of text, texts, messages" in queue_worker.log
    finally:
        queue_worker.kill()


def test_the_sdks_local_api_is_served_beside_the_streaming_server(tmp_path: Path) -> None:
    api_port = free_port()
    queue_worker = WorkerProcess(
        tmp_path / "log", ("--rp_serve_api", "--rp_api_port", str(api_port))
    )
    try:
        queue_worker.until_log_has("Uvicorn running on")
        call = urllib.request.Request(
            f"http://localhost:{api_port}/runsync",
            json.dumps({"input": {"type": "text", "text": "hello", "max_length": 3}}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(call, timeout=10) as response:
            assert json.load(response)["output"][0]["index"] == 0
        assert is_listening(queue_worker.port)
        queue_worker.signal(signal.SIGTERM)
        assert queue_worker.wait(60) == 0, queue_worker.log
        assert not is_listening(queue_worker.port)
    finally:
        queue_worker.kill()


def test_leases_leave_the_engines_places_to_other_jobs(api: FakeJobApi, tmp_path: Path) -> None:
    leases = [f"lease-{number}" for number in range(20)]
    queue_worker = WorkerProcess.on_queue(
        api, tmp_path / "log", MAX_BATCH_SIZE="4", DRAIN_TIMEOUT_SECONDS="5"
    )
    try:
        for name in leases:
            api.give(name, type="session", idle_seconds=60)
        api.wait(lambda: all(name in api.streamed for name in leases), 60.0)
        for number in range(50):
            if number % 5 == 0:
                api.give(f"job-{number}", type="health")
            else:
                api.give(f"job-{number}", type="text", text="hello", temperature=0, max_length=9)
        answers = {f"job-{number}": api.result(f"job-{number}") for number in range(50)}
        assert not set(leases) & set(api.done)
        said = {answer["output"][0].get("text") for answer in answers.values()}
        healthy = {answer["output"][0].get("status") for answer in answers.values()}
        assert len(said - {None}) == 1
        assert healthy == {"healthy", None}
        sessions = [api.streamed[name][0]["output"]["session_id"] for name in leases]
        for session in sessions:
            url = f"http://127.0.0.1:{queue_worker.port}/session/{session}"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10)
        assert all("output" in api.result(name) for name in leases)
    finally:
        queue_worker.kill()


@pytest.mark.parametrize("status", [500, 429, 0])
def test_a_job_api_that_fails_for_a_while_is_asked_again(
    api: FakeJobApi, queue_worker: WorkerProcess, status: int
) -> None:
    api.give("before", type="text", text="hello", max_length=3)
    api.result("before")
    api.failing = status
    api.wait(lambda: api.failures >= 2, 60.0)
    api.give("after", type="text", text="hello", max_length=3)
    api.failing = None
    api.wait(lambda: "after" in api.done, 60.0)
    assert api.result("after")["output"][0]["index"] == 0
    queue_worker.signal(signal.SIGTERM)
    assert queue_worker.wait(60) == 0, queue_worker.log


def mixed_job(number: int, clip: str) -> dict[str, Any]:
    """One of the kinds of job, and what its answers have in common is its kind's."""
    options = {"temperature": 0, "max_length": 12}
    kinds: list[dict[str, Any]] = [
        {"type": "health"},
        {"type": "text", "text": "hello", **options},
        {"type": "text", "text": "hello", "stream": True, **options},
        {"type": "text", "texts": ["hello", "good night"], **options},
        {"type": "text", "messages": [{"role": "user", "content": "hello"}], **options},
        {"type": "transcribe", "audio_base64": clip, "stream": number % 2 == 0},
        {"type": "audio", "audio_base64": clip, "text": "What was said?", **options},
        {"type": "session", "idle_seconds": 1},
        {"type": "text", "texts": []},
        {"type": "transcribe", "audio_base64": "bm8gYXVkaW8="},
    ]
    return kinds[number % len(kinds)]


def without_identity(answer: Any) -> Any:
    """What equal jobs are answered alike."""
    if "error" in answer:
        return answer["error"]
    return [
        (piece.get("index"), piece.get("text"), piece.get("status"))
        for piece in answer["output"]
        if "delta" not in piece
    ]


def test_200_mixed_jobs_are_answered_once_and_alike(api: FakeJobApi, tmp_path: Path) -> None:
    path = REPOSITORY / "models" / "voxtral-tiny" / "clips" / "what-time-is-it.wav"
    clip = base64.b64encode(path.read_bytes()).decode()
    # Eight at once.
    queue_worker = WorkerProcess.on_queue(
        api, tmp_path / "log", MAX_BATCH_SIZE="7", MAX_SESSIONS="1"
    )
    try:
        names = [f"job-{number}" for number in range(200)]
        for number, name in enumerate(names):
            api.give(name, **mixed_job(number, clip))
        api.wait(lambda: len(api.done) == len(names), 240.0)
        assert sorted(api.done) == sorted(names)
        for kind in range(10):
            answers = [without_identity(api.result(f"job-{n}")) for n in range(kind, 200, 10)]
            if kind == 7:
                # One session at a time: the others are refused for now.
                assert all(
                    answer == [(None, None, None)] * len(answer) or "AT_CAPACITY" in answer
                    for answer in answers
                )
            else:
                assert all(answer == answers[0] for answer in answers), answers
        assert "What time is it?" in str(without_identity(api.result("job-5")))
        assert "Traceback" not in queue_worker.log
    finally:
        queue_worker.kill()
