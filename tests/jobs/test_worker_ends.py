"""How a real worker ends: what its jobs and its talkers get."""

import asyncio
import json
import random
import signal
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.job_api import FakeJobApi, WorkerProcess
from tests.support.ports import is_listening

# One answer is short, so it takes many to last.
LONG = {"type": "text", "texts": ["hello"] * 1024, "temperature": 2, "max_length": 4096}


def test_jobs_in_flight_are_finished_after_sigterm_and_talkers_are_sent_away(
    api: FakeJobApi, queue_worker: WorkerProcess
) -> None:
    api.give("lease", type="session")
    api.wait(lambda: "lease" in api.streamed)
    address = f"ws://127.0.0.1:{queue_worker.port}/ws/audio/"
    address += api.streamed["lease"][0]["output"]["session_id"]

    async def talk_until_closed() -> int:
        async with connect(address) as socket:
            api.give("short", type="text", text="hello", max_length=200, temperature=1)
            await asyncio.to_thread(api.wait, lambda: "short" in api.taken)
            queue_worker.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(8):
                    while True:
                        await socket.recv()
            except ConnectionClosed as closed:
                assert closed.rcvd is not None
                return closed.rcvd.code

    assert asyncio.run(talk_until_closed()) == 1012
    assert api.result("short")["output"][0]["usage"]["completion_tokens"] > 0
    assert "(NOT_READY)" in api.result("lease")["error"]
    assert queue_worker.wait(60) == 0, queue_worker.log
    assert not is_listening(queue_worker.port)


def test_what_cannot_be_finished_in_time_is_failed_and_says_so(
    api: FakeJobApi, tmp_path: Path
) -> None:
    queue_worker = WorkerProcess.on_queue(api, tmp_path / "log", DRAIN_TIMEOUT_SECONDS="0.5")
    try:
        api.give("long", **LONG)
        api.wait(lambda: "long" in api.taken)
        queue_worker.signal(signal.SIGTERM)
        assert api.result("long") == {
            "error": "the worker is stopping and the job could not be finished within 0.5 s "
            "(NOT_READY)"
        }
        assert queue_worker.wait(60) == 0, queue_worker.log
    finally:
        queue_worker.kill()


def test_a_second_sigterm_ends_at_once_and_every_job_is_answered(
    api: FakeJobApi, tmp_path: Path
) -> None:
    queue_worker = WorkerProcess.on_queue(api, tmp_path / "log", DRAIN_TIMEOUT_SECONDS="300")
    try:
        api.give("long", **LONG)
        api.wait(lambda: "long" in api.taken)
        queue_worker.signal(signal.SIGTERM)
        queue_worker.until_log_has("jobs open")
        queue_worker.signal(signal.SIGTERM)
        assert api.result("long") == {"error": "the worker is stopping at once (NOT_READY)"}
        assert queue_worker.wait(30) == 128 + signal.SIGTERM, queue_worker.log
        assert queue_worker.left_behind() == []
        assert not is_listening(queue_worker.port)
        assert "Traceback" not in queue_worker.log
    finally:
        queue_worker.kill()


def test_a_job_that_comes_with_the_last_answer_is_still_done(
    api: FakeJobApi, queue_worker: WorkerProcess
) -> None:
    api.poll_s = 10.0
    api.give("first", type="text", text="hello", max_length=3)
    api.result("first")
    time.sleep(0.3)  # the next question is open now
    queue_worker.signal(signal.SIGTERM)
    queue_worker.until_log_has("SIGTERM with 0 jobs open")
    api.give("last", type="text", text="hello", max_length=3)
    assert api.result("last")["output"][0]["index"] == 0
    assert queue_worker.wait(60) == 0, queue_worker.log


def test_a_worker_with_nothing_to_do_does_not_wait_for_open_questions(
    api: FakeJobApi, queue_worker: WorkerProcess
) -> None:
    api.give("first", type="health")
    api.result("first")
    api.poll_s = 120.0
    time.sleep(0.5)
    queue_worker.signal(signal.SIGTERM)
    assert queue_worker.wait(60) == 0, queue_worker.log


def test_a_killed_worker_leaves_its_port_free(api: FakeJobApi, queue_worker: WorkerProcess) -> None:
    api.wait(lambda: bool(api.pings))
    queue_worker.signal(signal.SIGKILL)
    queue_worker.wait(60)
    assert not is_listening(queue_worker.port)


async def talk_until_sent_away(address: str, is_open: asyncio.Event) -> tuple[list[str], int]:
    """The statuses a talker sees until its socket is closed, and the code of the close."""
    seen: list[str] = []
    async with connect(address) as socket:
        is_open.set()
        await socket.send(json.dumps({"type": "text_input", "text": "hello"}))
        try:
            async with asyncio.timeout(30):
                while True:
                    seen.append(json.loads(await socket.recv()).get("status", ""))
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return seen, closed.rcvd.code


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sigterm_at_any_moment_loses_no_job_and_tells_talkers(
    api: FakeJobApi, queue_worker: WorkerProcess, seed: int
) -> None:
    api.give("lease", type="session")
    api.wait(lambda: "lease" in api.streamed)
    address = f"ws://127.0.0.1:{queue_worker.port}/ws/audio/"
    address += api.streamed["lease"][0]["output"]["session_id"]

    async def terminate_while_talking() -> tuple[list[str], int]:
        is_open = asyncio.Event()
        talker = asyncio.create_task(talk_until_sent_away(address, is_open))
        await is_open.wait()
        for number in range(30):
            api.give(f"job-{number}", type="text", text="hello", max_length=60, temperature=1.5)
        await asyncio.sleep(random.Random(seed).uniform(0.0, 1.0))
        queue_worker.signal(signal.SIGTERM)
        return await talker

    seen, code = asyncio.run(terminate_while_talking())
    assert "draining" in seen
    assert code == 1012
    assert queue_worker.wait(60) == 0, queue_worker.log
    assert sorted(api.done) == sorted(api.taken)
    assert all(len(answers) == 1 for answers in api.done.values())
    assert not is_listening(queue_worker.port)
    assert queue_worker.left_behind() == []
    assert "Traceback" not in queue_worker.log
