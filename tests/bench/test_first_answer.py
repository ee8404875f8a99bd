"""The stopwatch counts what it says it counts."""

import os
import sys
from pathlib import Path

import pytest

from bench import first_answer
from bench.first_answer import Watch, fetched_bytes, image_commands, stages
from voxtral_worker.settings import REPOSITORY

KINDS = ("cuda", "cpu")


def test_what_pip_says_it_took_is_added_up(tmp_path: Path) -> None:
    wheel = tmp_path / "voxtral_worker-0.1.0-py3-none-any.whl"
    wheel.write_bytes(bytes(77))
    said = (
        f"Processing {wheel}\n"
        "Collecting numpy>=2.3 (from voxtral-worker==0.1.0)\n"
        "  Downloading numpy-2.4.6-cp311.whl.metadata (62 kB)\n"
        "  Downloading numpy-2.4.6-cp311.whl (16.9 MB)\n"
        "  Using cached torch-2.14.1-cp311.whl (1.1 GB)\n"
        "  Downloading small-1-py3-none-any.whl (612 bytes)\n"
        "Requirement already satisfied: idna (3.20)\n"
    )
    assert fetched_bytes(said) == 62_000 + 16_900_000 + 1_100_000_000 + 612 + 77
    assert fetched_bytes("nothing to do") == 0


def test_the_image_is_measured_by_the_commands_of_the_dockerfile() -> None:
    install, compilation = image_commands((REPOSITORY / "Dockerfile").read_text("utf-8"))
    assert (
        install.split()
        == "pip install --require-hashes --no-deps -r builder/requirements.lock".split()
    )
    assert compilation.endswith("then python -m builder.compile_kernels; fi")


def test_the_dockerfile_has_a_base_for_each_kind_of_image() -> None:
    text = (REPOSITORY / "Dockerfile").read_text("utf-8")
    bases = {kind: [line for line in stages(text, kind) if line[:5] == "FROM "] for kind in KINDS}
    assert bases == {
        "cuda": ["FROM ${BASE_IMAGE} AS base-cuda", "FROM base-${KIND}"],
        "cpu": ["FROM ${CPU_BASE_IMAGE} AS base-cpu", "FROM base-${KIND}"],
    }


def test_an_answer_that_is_not_the_right_one_is_no_answer(tmp_path: Path) -> None:
    watch = Watch("any", tmp_path)
    watch.ask("echo right", tmp_path, "right")
    with pytest.raises(RuntimeError, match="did not answer 'right': wrong"):
        watch.ask("echo wrong", tmp_path, "right")
    with pytest.raises(RuntimeError, match="ended with 3"):
        watch.run("exit 3", tmp_path)
    assert watch.commands == ["echo right", "echo wrong", "exit 3"]


def test_what_is_said_before_the_worker_listens_is_the_installation(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        "import time\n"
        "print('  Downloading a-1.whl (5 MB)', flush=True); time.sleep(1)\n"
        "print('listening', flush=True); time.sleep(0.5)\n"
        "print('Console: http://127.0.0.1', flush=True); time.sleep(60)\n"
    )
    watch = Watch("any", tmp_path)
    process = watch.serve(f"{sys.executable} {script}", tmp_path)
    os.killpg(process.pid, 9)
    process.wait(60)
    assert (watch.install_s >= 0.9, watch.start_s >= 0.4) == (True, True)
    assert watch.fetched == 5_000_000
    assert "| any | 1 | 5 | 7 |" in watch.row(7_000_000)


def test_a_server_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not ready: no such model"):
        Watch("any", tmp_path).serve("echo no such model", tmp_path)


def test_pip_starts_without_what_this_machine_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/somewhere")
    environment = Watch("any", tmp_path).environment()
    assert environment["PIP_CONFIG_FILE"] == os.devnull
    assert not environment.keys() & first_answer.HIDDEN


@pytest.mark.parametrize("words", [[], ["clone"], ["no-such-way", "/tmp/x"]])
def test_a_wrong_use_is_told_the_right_one(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="clone|wheel|client|image"):
        first_answer.main(words)
