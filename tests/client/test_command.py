"""The command `voxtral` as a person types it."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from bench.workers import free_port
from tests.client.test_client import CLIP, SAID
from tests.server.running import RunningServer
from voxtral_worker.client import VoxtralClient
from voxtral_worker.client.command import main

Start = Callable[..., RunningServer]

NOBODY = f"http://127.0.0.1:{free_port()}"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "voxtral_worker.client.command", *words]


def voxtral(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, check=False)


def test_a_file_is_sent_and_its_answer_printed(worker: str) -> None:
    done = voxtral("send", str(CLIP), "--fast", "--url", worker)
    assert (done.returncode, done.stdout, done.stderr) == (0, SAID + "\n", "")


def test_a_recording_of_another_kind_is_sent_as_well(worker: str, tmp_path: Path) -> None:
    samples, rate = soundfile.read(CLIP)
    path = tmp_path / "stereo.flac"
    soundfile.write(path, samples[:, None].repeat(2, axis=1), rate)
    done = voxtral("send", str(path), "--fast", "--mode", "transcribe", "--url", worker)
    assert (done.returncode, done.stdout) == (0, "Turn on the kitchen light.\n")


def test_a_person_at_a_terminal_sees_how_far_it_is(worker: str) -> None:
    seen, given = pty.openpty()
    termios.tcsetwinsize(given, (24, 80))
    done = subprocess.run(
        command("send", str(CLIP), "--fast", "--url", worker),
        stdout=subprocess.PIPE,
        stderr=given,
        timeout=60,
        check=False,
    )
    os.set_blocking(seen, False)
    progress = os.read(seen, 65536).decode()
    os.close(given)
    os.close(seen)
    assert (done.returncode, done.stdout.decode()) == (0, SAID + "\n")
    assert "sending" in progress
    assert "100%" in progress


MICROPHONE = f"""
import threading, wave

class PortAudioError(Exception):
    pass

class RawInputStream:
    def __init__(self, *, callback, **form):
        self.callback = callback

    def start(self):
        threading.Thread(target=self.speak).start()

    def speak(self):
        with wave.open({str(CLIP)!r}) as file:
            spoken = file.readframes(file.getnframes()) + bytes(32_000)
        for start in range(0, len(spoken), 3200):
            self.callback(spoken[start : start + 3200], 1600, None, None)

    def close(self):
        pass
"""


def test_a_person_talks_by_microphone_until_ctrl_c(worker: str, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text(MICROPHONE)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command("talk", "--url", worker),
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == SAID + "\n"
        program.send_signal(signal.SIGINT)
        _, complaint = program.communicate(timeout=60)
    assert (program.returncode, complaint) == (0, "")


def test_the_health_of_a_worker_is_printed(worker: str) -> None:
    done = voxtral("health", "--url", worker)
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "healthy"


def test_many_users_are_measured(worker: str) -> None:
    words = ("--sessions", "2", "--seconds", "1", "--pause", "0.8")
    done = voxtral("bench", worker, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sessions 2, sentences spoken 2\nturns answered 2, errors 0\n" in done.stdout
    figures = {line[:27].strip(): line.split()[-3:] for line in done.stdout.splitlines()}
    assert figures["ms"] == ["p50", "p95", "p99"]
    for row in ("end of speech → first delta", "decision → first delta"):
        assert all(float(figure) >= 0 for figure in figures[row])


def test_what_goes_wrong_under_many_users_is_listed() -> None:
    done = voxtral("bench", NOBODY, "--clip", str(CLIP), "--seconds", "1", "--sessions", "2")
    assert done.returncode == 1
    assert "errors 2" in done.stdout
    assert "2 × the worker cannot be reached" in done.stdout


def sessions_of(worker: str) -> int:
    return int(asyncio.run(VoxtralClient(worker).health())["active_sessions"])


def test_a_measurement_that_is_interrupted_shows_what_it_has(worker: str) -> None:
    words = ("--sessions", "1", "--seconds", "600", "--pause", "0")
    before, deadline_s = sessions_of(worker), time.monotonic() + 30
    with subprocess.Popen(
        command("bench", worker, *words, "--clip", str(CLIP)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        while sessions_of(worker) == before:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        printed, complaint = program.communicate(timeout=60)
    assert (program.returncode, complaint) == (130, "")
    assert "sessions 1" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("send", "no-such.wav"), "no-such.wav: No such file or directory"),
        (("send", __file__), "no sound that can be read"),
        (("send", str(CLIP), "--url", NOBODY), "the worker cannot be reached"),
        (("health", "--url", NOBODY), "the worker cannot be reached"),
        (("bench", NOBODY), "the worker cannot be reached"),
    ],
)
def test_what_went_wrong_is_told_in_one_line(words: tuple[str, ...], line: str) -> None:
    # A text that a program exits with goes to standard error, and the status is 1.
    with pytest.raises(SystemExit, match=f"^voxtral: .*{re.escape(line)}") as told:
        main(words)
    assert "\n" not in str(told.value)


def test_a_failure_ends_with_1_and_one_line() -> None:
    done = voxtral("send", "no-such.wav")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "voxtral: no-such.wav: No such file or directory\n"


def test_wrong_credentials_are_told_in_one_line(start_server: Start) -> None:
    url = start_server(api_keys=("a-key",)).url
    for words in (("send", str(CLIP)), ("health",)):
        with pytest.raises(SystemExit, match="^voxtral: the credentials are not good$"):
            main([*words, "--url", url, "--token", "another"])


def test_a_limit_is_told_in_the_workers_words(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True, rate_limit_sessions_per_minute=1)
    first, second = (
        voxtral("send", str(CLIP), "--fast", "--retries", "0", "--url", server.url)
        for _ in range(2)
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert second.returncode == 1
    assert second.stderr.startswith("voxtral: over the limit of 1 ")
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("sing",),
        ("send",),
        ("send", "a.wav", "--url", "localhost:8000"),
        ("send", "a.wav", "--retries", "-1"),
        ("bench",),
        ("bench", "http://localhost:8000", "--sessions", "0"),
        ("bench", "http://localhost:8000", "--pause", "nan"),
    ],
)
def test_a_wrong_use_ends_with_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as told:
        main(words)
    assert told.value.code == 2
    assert "usage: voxtral" in capsys.readouterr().err
