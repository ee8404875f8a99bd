"""Child processes: when one is started, and how it ends."""

from pathlib import Path

import pytest

from voxtral_worker import processes
from voxtral_worker.processes import Child, KeptChild

WAITS = "import sys; sys.stdin.read()"
STUBBORN = (
    "import signal, os, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "os.write(0, b'!'); time.sleep(600)"
)


def is_there(child: Child) -> bool:
    return Path(f"/proc/{child.process_id}").exists()


def test_a_child_is_started_once_and_again_after_it_was_lost() -> None:
    kept = KeptChild(WAITS)
    assert kept.process_id is None
    first = kept.get()
    assert kept.get() is first
    assert kept.process_id == first.process_id
    assert kept.lose(first)
    assert not is_there(first)
    second = kept.get()
    # Another thread may notice the same loss later: the new child stays.
    assert not kept.lose(first)
    assert kept.get() is second
    kept.end()
    assert kept.process_id is None
    assert not is_there(second)
    kept.end()


def test_after_a_child_that_was_never_ready_there_is_a_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    started: list[str] = []

    def start(main: str, environment: object) -> Child:
        started.append(main)
        if main == "cannot":
            raise OSError("no more processes")
        return Child(WAITS)

    monkeypatch.setattr(processes, "Child", start)
    kept = KeptChild("can", rest_s=5.0, clock=lambda: now_s)
    kept.lose(kept.get())
    with pytest.raises(OSError, match="just failed to start"):
        kept.get()
    now_s = 5.0
    child = kept.get()
    child.is_ready = True
    kept.lose(child)
    kept.get()
    kept.end()
    cannot = KeptChild("cannot", rest_s=5.0, clock=lambda: now_s)
    for _ in range(2):
        with pytest.raises(OSError):
            cannot.get()
    assert started == ["can"] * 3 + ["cannot"]


def test_a_child_that_hears_no_signal_ends_all_the_same() -> None:
    child = Child(STUBBORN)
    assert child.line.recv(1) == b"!"
    assert child.line.fileno() >= 0
    child.end()
    assert child.line.fileno() < 0
    assert not is_there(child)


def test_a_child_that_has_ended_is_noticed() -> None:
    child = Child("import os; os.write(0, b'!'); os.kill(os.getpid(), 9)")
    assert child.line.recv(1) == b"!"
    assert child.line.recv(1) == b""
    assert child.has_ended()
    child.end()
