"""How the SDK's loop is left, with a loop that asks and hears as the SDK's does."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.support.job_fakes import SteppingEngine, endless
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.sdk import JobLoop, run_serve_api
from voxtral_worker.jobs.shutdown import (
    DELIVERY_S,
    LAST_DELIVERY_S,
    QUESTION_GRACE_S,
    QUIET_S,
    Phase,
    Shutdown,
)
from voxtral_worker.settings import Settings

Fetch = Callable[[], Awaitable[dict[str, Any] | None]]


class FakeScaler:
    """Asks for one job after the other, runs each in a task, and stops on a signal."""

    def __init__(self, handler: JobHandler, job_loop: JobLoop, fetch: Fetch) -> None:
        self.jobs_fetcher: Callable[..., Awaitable[dict[str, Any] | None]] = fetch
        self.outputs: list[list[dict[str, Any]]] = []
        self.was_told = False
        self._handler = handler
        self.job_loop = job_loop

    def handle_shutdown(self, *_: object) -> None:
        self.was_told = True

    async def run(self) -> None:
        signal.signal(signal.SIGTERM, self.handle_shutdown)
        jobs = []
        while not self.was_told:
            self.job_loop.before_question()
            if (job := await self.jobs_fetcher()) is not None:
                jobs.append(asyncio.create_task(self._run_job(job)))
        await asyncio.gather(*jobs)

    async def _run_job(self, job: dict[str, Any]) -> None:
        self.outputs.append([piece async for piece in self._handler.handle(job)])


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    arguments = list(sys.argv)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.argv[:] = arguments


def text_job(text: str = "a b") -> dict[str, Any]:
    return {"id": text, "input": {"type": "text", "text": text}}


async def never() -> None:
    await asyncio.Event().wait()


def run(
    fetch: Fetch, engine: SteppingEngine, terminated: list[float], drain_timeout_s: float = 5.0
) -> tuple[FakeScaler, float]:
    """Run until the loop is left; the scaler, and how long it took in seconds."""
    handler = JobHandler(engine, dict, Settings())
    job_loop = JobLoop(handler, terminated.append, drain_timeout_s)
    scaler = FakeScaler(handler, job_loop, fetch)
    began_s = time.monotonic()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(scaler.run())
    engine.stop()
    return scaler, time.monotonic() - began_s


async def test_the_sdk_hears_only_of_stops_of_jobs_that_have_begun() -> None:
    engine = SteppingEngine()
    handler = JobHandler(engine, dict, Settings())
    job_loop = JobLoop(handler, lambda _: None, 5.0)
    answers = [["j1", "j2"], ["j1"]]

    class Scaler:
        async def stop_signals_fetcher(self, _: object) -> list[str]:
            return answers.pop(0)

        def handle_shutdown(self, *_: object) -> None:
            pass

    scaler = Scaler()
    signal.signal(signal.SIGTERM, scaler.handle_shutdown)
    for _ in range(2):
        job_loop.before_question()
    assert await scaler.stop_signals_fetcher(None) == []
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(anext(handler.handle({"id": "j1"})))
    assert await scaler.stop_signals_fetcher(None) == ["j1"]
    engine.stop()


async def test_an_sdk_with_other_stops_is_said_and_left_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = SteppingEngine()
    job_loop = JobLoop(JobHandler(engine, dict, Settings()), lambda _: None, 5.0)
    for _ in range(2):
        job_loop.before_question()
    assert caplog.text.count("early stops may be lost") == 1
    engine.stop()


def test_the_sdk_is_told_when_its_question_is_over_and_left_once_it_is_quiet() -> None:
    shutdown = Shutdown(30.0)
    assert shutdown.look(99.0, 0) is Phase.RUNNING
    shutdown.begin(100.0)
    assert shutdown.look(100.0, 0) is Phase.DRAINING
    shutdown.question_is_over = True
    assert shutdown.look(100.1, 3) is Phase.TELLING
    assert shutdown.look(100.1 + 2 * QUIET_S, 1) is Phase.TELLING
    assert shutdown.look(100.2 + 2 * QUIET_S, 0) is Phase.TELLING
    assert shutdown.look(100.2 + 3 * QUIET_S, 0) is Phase.LEAVING


def test_an_open_question_is_waited_for_as_long_as_a_job_is_open_and_a_little_longer() -> None:
    shutdown = Shutdown(30.0)
    shutdown.begin(0.0)
    assert shutdown.look(20.0, 1) is Phase.DRAINING
    assert shutdown.look(20.0 + QUESTION_GRACE_S / 2, 0) is Phase.DRAINING
    assert shutdown.look(20.0 + QUESTION_GRACE_S, 0) is Phase.TELLING


def test_a_drain_ends_with_jobs_open_when_its_time_is_over() -> None:
    shutdown = Shutdown(30.0)
    shutdown.begin(0.0)
    assert shutdown.look(29.0 + DELIVERY_S, 1) is Phase.DRAINING
    assert shutdown.look(30.0 + DELIVERY_S, 1) is Phase.LEAVING
    hurried = Shutdown(300.0)
    hurried.begin(0.0)
    hurried.hurry(1.0)
    assert hurried.look(1.0, 1) is Phase.TELLING
    assert hurried.look(1.0 + LAST_DELIVERY_S, 1) is Phase.LEAVING


def test_an_open_question_is_left_when_there_is_nothing_else_to_wait_for() -> None:
    async def fetch() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await never()

    terminated: list[float] = []
    scaler, took_s = run(fetch, SteppingEngine(), terminated)
    assert scaler.was_told
    assert terminated == [5.0]
    assert took_s < 6


def test_a_job_that_an_open_question_brings_is_answered_and_no_other_is_asked_for() -> None:
    questions = 0

    async def fetch() -> dict[str, Any]:
        nonlocal questions
        questions += 1
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.3)
        return text_job()

    scaler, _ = run(fetch, SteppingEngine(), [])
    assert questions == 1
    assert [output[-1]["text"] for output in scaler.outputs] == ["a b "]


def test_the_loop_is_not_left_while_a_job_is_open() -> None:
    jobs = [text_job("word " * 30)]

    async def fetch() -> dict[str, Any] | None:
        if jobs:
            return jobs.pop()
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        await never()
        return None

    scaler, _ = run(fetch, SteppingEngine(step_s=0.1), [])
    assert scaler.outputs[0][-1]["finish_reason"] == "stop"


def test_a_job_that_takes_too_long_is_answered_with_an_error_and_the_loop_is_left() -> None:
    jobs = [text_job()]

    async def fetch() -> dict[str, Any] | None:
        if jobs:
            return jobs.pop()
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        await never()
        return None

    scaler, _ = run(fetch, SteppingEngine(endless, step_s=0.001), [], drain_timeout_s=0.2)
    assert scaler.outputs[0][-1]["error"].endswith("(NOT_READY)")


def test_a_second_signal_leaves_no_time_and_every_job_is_answered_all_the_same() -> None:
    jobs = [text_job()]

    async def fetch() -> dict[str, Any] | None:
        if jobs:
            return jobs.pop()
        await asyncio.sleep(0.1)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)
        await never()
        return None

    terminated: list[float] = []
    scaler, took_s = run(fetch, SteppingEngine(endless, step_s=0.001), terminated, 60.0)
    assert scaler.outputs == [[{"error": "the worker is stopping at once (NOT_READY)"}]]
    assert terminated == [60.0, 0.0]
    assert scaler.job_loop.exit_code == 128 + signal.SIGTERM
    assert took_s < 20


def test_a_worker_whose_engine_is_lost_asks_for_no_more_jobs_and_leaves_with_1() -> None:
    health = [True, False]
    questions = 0

    async def fetch() -> None:
        nonlocal questions
        questions += 1

    engine = SteppingEngine()
    terminated: list[float] = []
    handler = JobHandler(engine, dict, Settings())
    job_loop = JobLoop(handler, terminated.append, 5.0, lambda: health.pop(0))
    scaler = FakeScaler(handler, job_loop, fetch)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(scaler.run())
    engine.stop()
    assert (questions, scaler.was_told, job_loop.exit_code) == (1, True, 1)
    assert terminated == [5.0]


def test_a_signal_after_the_loop_has_ended_changes_nothing() -> None:
    async def fetch() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)

    terminated: list[float] = []
    run(fetch, SteppingEngine(), terminated)
    os.kill(os.getpid(), signal.SIGTERM)
    assert terminated == [5.0]


def test_the_local_api_may_not_have_the_streaming_servers_port(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = SteppingEngine()
    handler = JobHandler(engine, dict, Settings())
    assert run_serve_api(handler, ["--rp_api_port", "8000"], Settings()) == 1
    assert "--rp_api_port is taken" in capsys.readouterr().err
    engine.stop()
