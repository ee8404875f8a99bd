"""The client without asyncio, against a real worker."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.client.test_client import SAID, audio
from tests.support.cuttable_line import cuttable
from tests.support.ports import free_port
from voxtral_worker.client import Delta, Response, Retry, Status, Voxtral, VoxtralError


def pieces() -> Iterator[bytes]:
    data = audio()
    for start in range(0, len(data), 9600):
        yield data[start : start + 9600]


def test_a_spoken_sentence_is_answered_without_asyncio(worker: str) -> None:
    with Voxtral(worker, temperature=0) as voxtral:
        assert voxtral.health()["status"] == "healthy"
        events = list(voxtral.stream(pieces()))
    assert [event.text for event in events if isinstance(event, Response)] == [SAID]
    assert "".join(event.text for event in events if isinstance(event, Delta)) == SAID
    assert "voxtral" not in {thread.name for thread in threading.enumerate()}


def test_a_cut_line_is_resumed_without_asyncio(worker: str) -> None:
    def cut_in_the_middle() -> Iterator[bytes]:
        for number, piece in enumerate(pieces()):
            if number == 3:
                cut()
            yield piece

    with (
        cuttable(int(worker.rpartition(":")[2])) as (url, cut),
        Voxtral(url, temperature=0) as voxtral,
    ):
        events = list(voxtral.stream(cut_in_the_middle()))
    resumed = [e for e in events if isinstance(e, Status) and e.status == "resumed"]
    assert len(resumed) == 2
    assert [event.text for event in events if isinstance(event, Response)] == [SAID]


def test_a_caller_may_leave_in_the_middle(worker: str) -> None:
    with Voxtral(worker) as voxtral:
        for event in voxtral.stream(pieces()):
            if isinstance(event, Status):
                break


INTERRUPTED = """
import sys, time
from voxtral_worker.client import Voxtral

def microphone():
    while True:
        time.sleep(0.01)
        yield bytes(320)

with Voxtral(sys.argv[1]) as voxtral:
    for event in voxtral.stream(microphone()):
        print("event", flush=True)
"""


def test_a_program_that_is_interrupted_ends(worker: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, worker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"event\n"
        program.send_signal(signal.SIGINT)
        _, complaint = program.communicate(timeout=60)
    assert complaint.rstrip().endswith(b"KeyboardInterrupt")
    assert program.returncode == -signal.SIGINT


def test_a_worker_that_is_not_there_is_told_without_asyncio() -> None:
    with (
        pytest.raises(VoxtralError, match="cannot be reached"),
        Voxtral(f"http://127.0.0.1:{free_port()}", retry=Retry(most=0)),
    ):
        pass


def test_a_live_session_without_asyncio(worker: str) -> None:
    with Voxtral(worker, temperature=0) as voxtral:
        request_id = voxtral.send_text("hello")
        voxtral.update(silence_ms=300)
        voxtral.cancel()
        voxtral.clear_history()
        for piece in pieces():
            voxtral.send_audio(piece)
        voxtral.end_turn()
        voxtral.ping()
        voxtral.get_stats()
        assert voxtral.session()["session_id"] == voxtral.session_id
        events = []
        for event in voxtral.events():
            events.append(event)
            if isinstance(event, Response) and event.source == "audio":
                break
        assert events[-1].message["text"] == SAID
        assert request_id in {event.request_id for event in events if isinstance(event, Response)}
        told = {event.status for event in events if isinstance(event, Status)}
        assert {"config_updated", "history_cleared", "cancelled"} <= told
        voxtral.send_text("hello", "after it")
        assert next(event for event in voxtral.events() if event.request_id == "after it")
