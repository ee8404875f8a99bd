"""The worker as a process: how it starts, what it says, how it ends."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.support.ports import free_port
from tests.support.workers import wait_until_ready
from voxtral_worker import __version__, worker
from voxtral_worker.__main__ import NEEDED
from voxtral_worker.__main__ import main as serve_by_options
from voxtral_worker.jobs.mode import Mode
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY, Settings
from voxtral_worker.worker import open_to

TIMEOUT_S = 90
SERVE = ("-m", "voxtral_worker.client.command", "serve")
# A module that is None cannot be imported.
HEAVY = """
import runpy, sys
missing = "aiohttp prometheus_client pydantic pydantic_settings torch transformers"
sys.modules.update(dict.fromkeys(missing.split()))
sys.argv = {words}
runpy.run_module({program!r}, run_name="__main__", alter_sys=True)
"""


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


@pytest.mark.parametrize("ways", [("-m", "voxtral_worker"), SERVE], ids=["module", "command"])
def test_help_shows_each_option_with_its_default_and_imports_nothing_heavy(
    ways: tuple[str, ...],
) -> None:
    code = HEAVY.format(program=ways[1], words=[*ways[1:], "--help"])
    ended = start("-c", code)
    assert (ended.returncode, ended.stderr) == (0, "")
    text = " ".join(ended.stdout.split())
    assert "(default: PORT, else 8000)" in text
    assert "(default: HOST, else 0.0.0.0)" in text
    assert "(default: MODEL_ID)" in text
    assert start(*ways, "--version").stdout.split()[-1] == __version__


def test_options_go_before_the_environment(tmp_path: Path) -> None:
    ended = start(*SERVE, "--model", str(tmp_path / "no-such"), MODEL_ID=str(EMBEDDED_MODEL))
    assert ended.returncode == 1
    assert f"MODEL_ID is '{tmp_path / 'no-such'}', but" in ended.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = start("-m", "voxtral_worker", "--port", port, "--host", "127.0.0.1", HOST="9.9.9.9")
    assert ended.returncode == 1
    assert f"PORT is {port}, but another program uses this port" in ended.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpu",), "unrecognized arguments: --gpu"),
        (("--mod", "x"), "unrecognized arguments: --mod x"),
        (("here",), "unrecognized arguments: here"),
        (("--port", "high"), "argument --port: it is 'high', but must be a whole number from 1"),
        (("--model", ""), "argument --model: it is empty"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve_by_options(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_without_its_packages_the_server_says_which_extra_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtral_worker.__main__.NEEDED", ("json", "no_such_module"))
    assert serve_by_options([], "voxtral serve") == 1
    told = capsys.readouterr().err
    assert told == (
        "voxtral serve: the extra `worker` is missing (no_such_module): "
        "pip install 'voxtral-worker[worker]'\n"
    )


def test_where_the_client_alone_is_installed_serving_names_the_extra() -> None:
    ended = start("-c", HEAVY.format(program=SERVE[1], words=[*SERVE[1:], "--port", "high"]))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "the extra `worker` is missing (aiohttp, prometheus_client, pydantic, " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_all_that_the_server_cannot_start_without_is_looked_for() -> None:
    imported = set()
    for file in (REPOSITORY / "src" / "voxtral_worker").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            imported |= {module.partition(".")[0] for module in modules}
    # Those of the client are always there; those of a setting are imported when it is set.
    of_client = {"httpx2", "numpy", "soundfile", "soxr", "tqdm", "websockets", "voxtral_worker"}
    at_need = {"hibari", "opentelemetry", "redis", "runpod", "triton", "yarl"}
    assert imported - sys.stdlib_module_names - of_client - at_need == set(NEEDED) - {"accelerate"}


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    ended = start("-m", "voxtral_worker", MODEL_ID=str(tmp_path), DEVICE="cpu")
    assert ended.returncode == 1
    assert f"MODEL_ID is '{tmp_path}', but the folder has no config.json" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "cold start" not in ended.stderr


def test_a_port_that_is_taken_ends_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = start("-m", "voxtral_worker", PORT=str(taken.getsockname()[1]), DEVICE="cpu")
    assert ended.returncode == 1
    assert "cannot start: PORT is" in ended.stderr
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
    told = [line["message"] for line in lines]
    start = told[: told.index(f"Console: http://127.0.0.1:{port}") + 1]
    # Between them, who can use a worker without credentials.
    assert ["ready after" in message for message in start[-3:]] == [True, False, False]
    assert "ALLOWED_ORIGINS" in start[-2]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_the_server_is_there_before_the_heavy_libraries() -> None:
    code = (
        "import sys, voxtral_worker.worker; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
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


def test_a_signal_that_comes_as_the_worker_gets_ready_drains_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = Mock(is_healthy=True)

    def get_ready(_: Settings, when_ready: Callable[[], None]) -> Mock:
        when_ready()
        signal.raise_signal(signal.SIGTERM)
        return started

    monkeypatch.setattr(worker, "cold_start", get_ready)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert worker.serve(Settings()) == 0
        assert worker.run_jobs(Settings(), Mode.SERVER_ONLY, ()) == 0
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert started.stop.call_count == 2


def test_a_worker_without_credentials_says_who_can_use_it() -> None:
    (pages,) = open_to(Settings())
    assert "any web page" in pages
    assert "ALLOWED_ORIGINS" in pages
    anybody, same = open_to(Settings(runpod_pod_id="pod"))
    assert "ANYBODY" in anybody
    assert same == pages
    assert open_to(Settings(allowed_origins=("https://app.example",))) == []
    assert open_to(Settings(runpod_pod_id="pod", api_keys=("key" * 6,))) == []
