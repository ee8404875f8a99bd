"""After a pause of the whole process, nothing that was under way counts as hung."""

import queue
import signal
import subprocess
import sys
import time

import pytest

from voxtral_worker.engine import warm_up
from voxtral_worker.engine.heartbeat import Heartbeat
from voxtral_worker.errors import EngineFailure
from voxtral_worker.running_time import MOST_GAP_S, RunningTime

# A VAD whose tick waits for a gate. HUNG_S is less than the pause and more than one gap.
PAUSED = """
import asyncio, sys, threading
import numpy as np
from voxtral_worker.errors import EngineFailure
from voxtral_worker.running_time import running_s
from voxtral_worker.turns import vad as vads
from voxtral_worker.turns.network import SpeechNetwork

class Gate:
    def __init__(self, inner):
        self.inner, self.reached, self.opened = inner, threading.Event(), threading.Event()

    def __call__(self, sound, states):
        self.reached.set()
        self.opened.wait()
        return self.inner(sound, states)

def say(text):
    print(text, flush=True)
    sys.stdin.readline()

async def ask(key):
    return await vad.listen(key, np.zeros((1, 512), np.float32))

async def main():
    heard = asyncio.create_task(ask("a"))
    await asyncio.to_thread(gate.reached.wait)
    # The event loop stands still as well, so that its timers are late when it goes on.
    say("in a tick")
    print("alive" if vad.is_alive else "hangs")
    gate.opened.set()
    print("heard", len(await heard))
    gate.opened.clear()
    # A tick that truly hangs is found by who waits for it and by who watches the thread.
    try:
        await ask("a")
    except EngineFailure as error:
        print(error.message)
    while vad.is_alive:
        await asyncio.sleep(0.01)
    print("hangs")
    gate.opened.set()
    vad.stop()

vads.HUNG_S = 1.5
gate = Gate(SpeechNetwork())
vad = vads.Vad(gate)
vad.start()
asyncio.run(main())
"""


def test_time_in_which_nobody_read_the_clock_counts_as_one_gap() -> None:
    now_s = 100.0
    clock = RunningTime(lambda: now_s)
    assert clock() == 0.0
    now_s += MOST_GAP_S / 2
    assert clock() == MOST_GAP_S / 2
    now_s += 3600.0
    assert clock() == MOST_GAP_S * 1.5
    assert clock() == MOST_GAP_S * 1.5


def test_a_step_is_not_late_after_a_pause_and_is_late_once_the_process_ran_for_so_long() -> None:
    now_s = 0.0
    heartbeat = Heartbeat(60.0, RunningTime(lambda: now_s))
    heartbeat.begin()
    for _ in range(10):
        now_s += 600.0
        assert not heartbeat.is_late
    looks = 0
    while not heartbeat.is_late:
        now_s += MOST_GAP_S / 2
        looks += 1
    assert looks == 101


def test_a_warm_up_fails_only_after_it_ran_for_so_long_without_a_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, looks = 0.0, 0

    class Ends:
        """Nothing comes, and the machine is paused in each wait."""

        def get(self, timeout: float) -> None:
            nonlocal now_s, looks
            assert timeout <= MOST_GAP_S
            now_s += 3600.0
            looks += 1
            raise queue.Empty

    clock = RunningTime(lambda: now_s)
    monkeypatch.setattr(warm_up, "running_s", clock)
    failure = warm_up.end_of(Ends(), Heartbeat(1.0, clock), 300.0)  # type: ignore[arg-type]
    assert isinstance(failure, EngineFailure)
    assert looks == 300


def test_a_tick_that_was_under_way_when_the_process_stopped_does_not_hang() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PAUSED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "in a tick\n"
            process.send_signal(signal.SIGSTOP)
            time.sleep(2.5)
            process.send_signal(signal.SIGCONT)
            told, _ = process.communicate("go on\n", timeout=60)
        finally:
            process.kill()
    assert told.splitlines() == ["alive", "heard 1", "the VAD does not answer", "hangs"]
