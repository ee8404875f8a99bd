"""Every line can be read by a machine or a person, and says what it is about."""

import asyncio
import io
import json
import logging
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.metric_values import value_of
from voxtral_worker import logs, metrics
from voxtral_worker.engine.conversation import Conversation, UserTurn
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import GenerationRequest
from voxtral_worker.logs import about, context_about, session_mark, set_up_logging

log = logging.getLogger("voxtral_worker.test")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged; the set-up of the tests' own logging is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    # Were they still there, setting up would close them.
    root.handlers[:] = []
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_is_one_object_with_its_fields_and_ids(written: io.StringIO) -> None:
    set_up_logging("INFO", "json", written)
    with about(request_id="r1"), about(session_id="s1"):
        log.info("one\ntwo\u2028%s", "three", extra={"bytes": 3, "odd": {1}})
    log.info("after")
    try:
        raise ValueError("in\nside")
    except ValueError:
        log.exception("failed")
    first, after, failed = lines(written)
    assert first["message"] == "one\ntwo\u2028three"
    assert datetime.fromisoformat(first["time"]).tzinfo is UTC
    assert (first["level"], first["logger"]) == ("INFO", "voxtral_worker.test")
    assert (first["request_id"], first["session_id"], first["bytes"]) == ("r1", "s1", 3)
    assert first["odd"] == "{1}"
    assert "request_id" not in after
    assert failed["traceback"].endswith("ValueError: in\nside")


def test_a_text_line_quotes_what_could_break_it(written: io.StringIO) -> None:
    set_up_logging("INFO", "text", written)
    with about(session_id="s1 level=ERROR\n"):
        log.warning("one\r\ntwo\x1b[31m", extra={"path": 'a"=é', "count": 2, "empty": ""})
    (line,) = written.getvalue().splitlines()
    assert line.partition(" ")[2] == (
        r"WARNING one\x0d\x0atwo\x1b[31m "
        r'path="a\"=\u00e9" count=2 empty="" session_id="s1 level=ERROR\n"'
    )


def test_a_field_given_with_a_line_goes_before_an_id(written: io.StringIO) -> None:
    set_up_logging("INFO", "json", written)
    with about(session_id="around"):
        log.info("said", extra={"session_id": "given"})
    assert lines(written)[0]["session_id"] == "given"


def test_lines_below_the_level_are_not_written(written: io.StringIO) -> None:
    set_up_logging("WARNING", "text", written)
    log.info("said")
    logging.getLogger("httpx").info("said")
    assert written.getvalue() == ""


async def test_a_task_with_a_context_of_its_own_is_about_nothing_else(
    written: io.StringIO,
) -> None:
    set_up_logging("INFO", "json", written)

    async def work() -> None:
        log.info("said")

    with about(request_id="r1"):
        await asyncio.create_task(work())
        await asyncio.create_task(work(), context=context_about(job_id="j1"))
    of_the_request, of_the_job = lines(written)
    assert of_the_request["request_id"] == "r1"
    assert of_the_job["job_id"] == "j1"
    assert "request_id" not in of_the_job


def test_what_the_engine_logs_of_a_generation_is_about_whoever_asked(
    written: io.StringIO,
) -> None:
    set_up_logging("INFO", "json", written)
    request = GenerationRequest(Conversation(UserTurn(("hello",))))
    with about(session_id="s1"):
        generation = Generation(request, lambda _: None)
    generation.context.run(log.error, "failed")
    assert lines(written)[0]["session_id"] == "s1"


FLOOD = """
import logging, sys
from voxtral_worker.logs import session_mark, set_up_logging
set_up_logging("INFO", "text")
for number in range(int(sys.argv[1])):
    logging.info("%d %s", number, "x" * 100)
signal = __import__("signal")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("done", flush=True)
signal.pause()
"""


def flood(lines: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", FLOOD, str(lines)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_log_that_nobody_reads_stops_neither_the_work_nor_the_exit() -> None:
    with flood(20_000) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert select.select([process.stdout], [], [], 60)[0], "logging waits for its reader"
            assert process.stdout.readline() == "done\n"
            process.terminate()
            assert process.wait(60) == 7
        finally:
            process.kill()


def test_the_last_lines_are_written_before_the_process_ends() -> None:
    with flood(3000) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.terminate()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert len(said.splitlines()) == 3000


def test_lines_beyond_the_queue_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUEUED_LINES", 4)
    monkeypatch.setattr(logs, "FLUSH_S", 0.01)
    before = value_of(metrics.log_lines_dropped)
    is_read = threading.Event()

    class Unread(io.StringIO):
        def write(self, text: str) -> int:
            assert is_read.wait(60)
            return super().write(text)

    stream = Unread()
    handler = logs.BackgroundHandler(stream)
    for number in range(20):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.flush()
    dropped = value_of(metrics.log_lines_dropped) - before
    assert 15 <= dropped <= 16
    is_read.set()
    monkeypatch.setattr(logs, "FLUSH_S", 60.0)
    handler.flush()
    assert len(stream.getvalue().splitlines()) == 20 - dropped


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_id_of_a_session_is_in_no_traceback(form: str, written: io.StringIO) -> None:
    session_id = "00000000-1111-4222-8333-444444444444"
    set_up_logging("INFO", form, written)
    try:
        raise KeyError(session_id)
    except KeyError:
        log.exception("failed")
    assert session_id not in written.getvalue()
    assert f"KeyError: '{session_mark(session_id)}'" in written.getvalue()


def test_the_mark_of_a_session_is_what_the_docs_compute() -> None:
    done = subprocess.run(
        ["sh", "-c", "printf %s some-id | sha256sum | cut -c1-12"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == session_mark("some-id")
    assert "| sha256sum | cut -c1-12" in (
        Path(__file__).parents[1] / "docs" / "operations.md"
    ).read_text("utf-8")
