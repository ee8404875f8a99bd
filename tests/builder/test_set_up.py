"""How `.venv` is made, without anything being fetched."""

import fcntl
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import IO

import pytest

from builder import set_up
from voxtral_worker.settings import REPOSITORY

PINS = Path("builder", "requirements.txt")


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run, in a repository of its own."""
    commands: list[list[str]] = []
    (tmp_path / "builder").mkdir()
    for name in ("pyproject.toml", "builder/requirements.txt", "builder/requirements-dev.txt"):
        (tmp_path / name).touch()

    def call(command: list[str]) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    monkeypatch.setattr(set_up, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr("subprocess.call", call)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    return commands


def files(commands: list[list[str]]) -> list[str]:
    return [Path(each[-1]).name for each in commands if "--requirement" in each]


def test_a_worker_gets_nothing_of_the_developers_tools(called: list[list[str]]) -> None:
    assert set_up.main("worker") == 0
    assert files(called) == ["requirements.txt"]
    assert [each[-2] for each in called] == ["venv", "--requirement", "--editable"]
    # The progress of what takes long is shown.
    assert "--quiet" not in called[1]
    assert set_up.main("developer") == 0
    assert files(called) == ["requirements.txt", "requirements-dev.txt"]


def test_what_is_up_to_date_is_left_alone_until_its_source_changes(
    called: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set_up.main("worker") == 0
    assert "Fetching what a worker needs" in capsys.readouterr().out
    assert set_up.main("worker") == 0
    assert (len(called), capsys.readouterr().out) == (3, "")
    stamp = tmp_path / ".venv" / ".set-up-worker"
    later = stamp.stat().st_mtime + 5
    os.utime(tmp_path / "builder" / "requirements.txt", (later, later))
    assert set_up.main("worker") == 0
    assert len(called) == 6


def test_a_set_up_that_failed_is_done_again(
    called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str]) -> int:
        return 7 if "--requirement" in command else 0

    with monkeypatch.context() as broken:
        broken.setattr("subprocess.call", fail)
        assert set_up.main("worker") == 7
    assert not (tmp_path / ".venv" / ".set-up-worker").exists()
    assert set_up.main("worker") == 0
    assert len(called) == 3


def size_said(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().out
    assert re.search(r"^Fetching what a worker needs: about [\d.]+ GB", said)
    return said


def test_without_a_driver_a_smaller_download_is_named_before_the_large_one(
    called: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(set_up, "DRIVER", tmp_path / "version")
    said_before: list[str] = []

    def call(command: list[str]) -> int:
        said_before.append(capsys.readouterr().out)
        return 7

    with monkeypatch.context() as broken:
        broken.setattr("subprocess.call", call)
        assert set_up.main("worker") == 7
    assert "make run TORCH_INDEX=" in said_before[0]
    (tmp_path / "version").touch()
    assert set_up.main("worker") == 0
    assert "TORCH_INDEX" not in size_said(capsys)
    assert not any("--extra-index-url" in command for command in called)


def test_an_index_that_is_named_is_used_and_its_size_is_said(
    called: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_INDEX", "https://cpu.example/whl")
    assert set_up.main("worker") == 0
    assert "0.4 GB" in size_said(capsys)
    [install] = [command for command in called if "--requirement" in command]
    assert install[install.index("--extra-index-url") + 1] == "https://cpu.example/whl"


def test_pip_prefers_the_build_for_cpus_of_the_version_that_is_pinned(tmp_path: Path) -> None:
    pin = re.search(r"^torch==([\d.]+)$", (set_up.ROOT / PINS).read_text("utf-8"), re.MULTILINE)
    assert pin is not None
    for index, version in (("registry", pin[1]), ("cpu", f"{pin[1]}+cpu")):
        folder = tmp_path / index / "torch"
        folder.mkdir(parents=True)
        name = f"torch-{version}-py3-none-any.whl"
        with zipfile.ZipFile(folder / name, "w") as wheel:
            info = f"torch-{version}.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Name: torch\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        (folder / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')
    where = ["--index-url", (tmp_path / "registry").as_uri()]
    where += ["--extra-index-url", (tmp_path / "cpu").as_uri()]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--isolated", "--no-deps", *where]
        + ["--dest", str(tmp_path), f"torch=={pin[1]}"],
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.whl")] == [
        f"torch-{pin[1]}+cpu-py3-none-any.whl"
    ]


def test_two_at_once_take_turns_and_the_second_has_nothing_to_do(
    called: list[list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    is_first_in, may_go_on = threading.Event(), threading.Event()

    def call(command: list[str]) -> int:
        called.append(command)
        is_first_in.set()
        assert may_go_on.wait(60)
        return 0

    is_waiting = threading.Event()
    wait_for = fcntl.flock

    def flock(lock: IO[str], how: int) -> None:
        if not how & fcntl.LOCK_NB:
            is_waiting.set()
        wait_for(lock, how)

    monkeypatch.setattr("subprocess.call", call)
    monkeypatch.setattr("fcntl.flock", flock)
    ended: list[int] = []
    both = [threading.Thread(target=lambda: ended.append(set_up.main("worker"))) for _ in "ab"]
    both[0].start()
    assert is_first_in.wait(60)
    both[1].start()
    assert is_waiting.wait(60)
    may_go_on.set()
    for each in both:
        each.join(60)
    assert (ended, len(called)) == ([0, 0], 3)
    assert "Waiting for another set-up" in capfd.readouterr().out


def test_a_python_that_is_too_old_is_told_so(
    called: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_up, "OLDEST", (99, 0))
    assert set_up.main("worker") == 1
    assert "make PYTHON=python3.11" in capsys.readouterr().err
    assert called == []


@pytest.mark.parametrize(
    ("target", "kinds"),
    [("run", ["worker"]), ("demo", ["worker"]), ("test", ["worker", "developer"])],
)
def test_a_target_sets_up_what_it_needs_and_no_more(
    target: str, kinds: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path}", f"PYTHON={sys.executable}", target],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert re.findall(r"set_up\.py (\w+)", done.stdout) == kinds
