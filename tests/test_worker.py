"""The worker as a process: how it starts, what it says, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from bench.workers import free_port, wait_until_ready
from voxtral_worker.settings import REPOSITORY

TIMEOUT_S = 90


def start(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(free_port()), **settings}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S
    )


def test_settings_that_cannot_be_used_stop_the_start_with_one_message() -> None:
    ended = start("-m", "voxtral_worker", PORT="high", DEVICE="abacus")
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert "PORT is 'high'" in line
    assert "DEVICE is 'abacus', but must be one of auto, cpu, cuda" in line


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    ended = start("-m", "voxtral_worker", MODEL_ID=str(tmp_path), DEVICE="cpu")
    assert ended.returncode == 1
    assert "cannot be loaded" in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_ends_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = start("-m", "voxtral_worker", PORT=str(taken.getsockname()[1]), DEVICE="cpu")
    assert ended.returncode == 1
    assert "cannot start" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_test_job_runs_to_its_end_and_prints_its_output() -> None:
    ended = start("handler.py", DEVICE="cpu")
    assert ended.returncode == 0, ended.stderr
    assert '"finish_reason"' in ended.stdout
    failed = start("handler.py", "--test_input", '{"input": {"type": "dance"}}', DEVICE="cpu")
    assert failed.returncode == 1
    assert "type" in failed.stderr


def test_a_server_drains_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    settings = {"HOST": "127.0.0.1", "PORT": str(port), "DEVICE": "cpu", "LOG_FORMAT": "json"}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "voxtral_worker"],
            env={**os.environ, **settings},
            stderr=log,
        )
        wait_until_ready(f"http://127.0.0.1:{port}/ping", process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
            assert json.load(response)["model"]["id"] == "voxtral-tiny"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
        log.seek(0)
        lines = [json.loads(line) for line in log]
    assert lines[-1]["message"] == "worker: stopped"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_the_server_is_there_before_the_heavy_libraries() -> None:
    code = (
        "import sys, voxtral_worker.worker; "
        "sys.exit(bool({'torch', 'transformers', 'torchaudio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0


def test_a_worker_that_is_told_to_stop_while_it_starts_goes_at_once(tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "voxtral_worker"],
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port), "DEVICE": "cpu"},
            stdout=log,
            stderr=log,
        )
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    said = (tmp_path / "log").read_text()
    assert "ready after" not in said
    assert "Traceback" not in said
