"""The image's steps, done in a bare folder, because no image can be built here."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from bench.first_answer import stages
from tests.support.ports import free_port, is_listening
from voxtral_worker.settings import REPOSITORY

# Steps that make a system and not an application: the machine that tests has one.
SYSTEM = ("apt-get ", "useradd ")
# Triton comes with torch and must be the one that torch wants.
BROUGHT = {"pydantic-core", "triton", "yarl"}
LOCKS = {"cuda": "requirements.lock", "cpu": "requirements-cpu.lock"}
# The first word of every command that the build of an image runs here.
RAN = {"cuda": ["python", "pip", "if", "python"], "cpu": ["pip", "if", "if", "python"]}
INDEX = "http://127.0.0.1:1/simple"
HADOLINT = Path(sys.executable).parent / "hadolint"


@dataclass
class Image:
    """What the Dockerfile makes, with `/app` and all other paths below `root`."""

    root: Path
    kind: str = "cuda"
    variables: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    @property
    def app(self) -> Path:
        return self.root / "app"

    def environment(self) -> dict[str, str]:
        """That of a container, with this Python for the image's."""
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.root),
        }
        return {**self.variables, **own, "PYTHONPATH": self.in_root("/app/src")}

    def in_root(self, path: str) -> str:
        return str(self.root / path.lstrip("/"))

    def build(self) -> None:
        self.app.mkdir(parents=True)
        text = (REPOSITORY / "Dockerfile").read_text("utf-8")
        for line in stages(text, self.kind):
            word, _, rest = line.partition(" ")
            if step := getattr(self, f"do_{word.lower()}", None):
                step(rest.strip())
            else:
                assert not word or word[0] in "#" or word in ("FROM", "WORKDIR", "EXPOSE"), line

    def do_arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.variables.setdefault(name, value.strip('"'))

    def do_env(self, rest: str) -> None:
        for assignment in shlex.split(rest):
            name, _, value = assignment.partition("=")
            # The shell knows the same ${NAME:+word} that the builder does.
            told = subprocess.run(
                ["sh", "-c", f'printf %s "{value}"'],
                env=self.variables,
                capture_output=True,
                text=True,
                check=True,
            )
            self.variables[name] = told.stdout

    def do_copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        for source in sources:
            path, copy = REPOSITORY / source, self.app / target
            if path.is_dir():
                shutil.copytree(
                    path,
                    copy,
                    ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
                    dirs_exist_ok=True,
                )
            else:
                copy = copy / path.name if target.endswith("/") else copy
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)

    def do_run(self, rest: str) -> None:
        script = re.sub(r"--mount=\S+ +", "", rest)
        if script.startswith(SYSTEM):
            return
        if script.startswith("python3 -m venv"):
            # This Python's own stands for it.
            return
        if "torch.version.cuda is None" in script:
            # It holds for a build for CPUs and for no other: whichever these tests run with.
            done = subprocess.run(
                ["sh", "-euc", script],
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert (done.returncode == 0) == (torch.version.cuda is None), done.stderr
            return
        # All is there already; anything that is not would be missing in the image's list.
        script = script.replace("pip install", "pip install --dry-run --no-index")
        lock = self.app / "builder" / LOCKS[self.kind]
        if lock.name in script:
            # A virtual environment brings its own setuptools, of its Python's version.
            lines = lock.read_text().splitlines(keepends=True)
            lock.write_text("".join(line for line in lines if not line.startswith("setuptools==")))
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self.app,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        assert "Would install" not in done.stdout, done.stdout
        self.ran.append(script)

    def do_healthcheck(self, rest: str) -> None:
        self.healthcheck = json.loads(rest[rest.index("[") :])

    def do_cmd(self, rest: str) -> None:
        self.command = json.loads(rest)


def health(image: Image, environment: dict[str, str]) -> int:
    """The exit code of the image's health check."""
    word, *command = image.healthcheck
    assert word == "python"
    return subprocess.run(
        [sys.executable, *command], cwd=image.app, env=environment, capture_output=True, timeout=30
    ).returncode


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([HADOLINT, REPOSITORY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def as_one(name: str) -> str:
    """A package's name in the one spelling of its many."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_the_worker_imports_is_named_in_its_requirements() -> None:
    listed = (REPOSITORY / "builder" / "requirements.txt").read_text("utf-8")
    named = {as_one(name) for name in re.findall(r"^[A-Za-z0-9_.-]+", listed, re.MULTILINE)}
    named |= BROUGHT
    owners = importlib.metadata.packages_distributions()
    for file in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for package in {module.partition(".")[0] for module in modules}:
                if package not in sys.stdlib_module_names and package != "voxtral_worker":
                    assert {as_one(owner) for owner in owners[package]} & named, (file, package)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_the_image_runs_the_worker_until_it_is_told_to_stop(tmp_path: Path, kind: str) -> None:
    image = Image(tmp_path / "image", kind, {"TORCH_INDEX": INDEX} if kind == "cpu" else {})
    image.build()
    assert [script.split()[0] for script in image.ran] == RAN[kind]
    # Kernels are compiled for GPUs alone.
    assert ("TRITON_CACHE_DIR" in image.variables) == (kind == "cuda")
    # As without a --build-arg: no weights in the image, and the setting counts as unset.
    assert image.variables["MODEL_ID"] == ""
    assert not (tmp_path / "image" / "models").exists()
    port = free_port()
    environment = {
        **image.environment(),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "RUNPOD_POD_ID": "pod-test",
        # On RunPod the real model is the default.
        "MODEL_ID": image.in_root("/app/models/voxtral-tiny"),
        "OMP_NUM_THREADS": "1",
    }
    assert health(image, environment) != 0
    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            image.command, cwd=image.app, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline_s = time.monotonic() + 120
        while "worker: ready" not in log.read_text():
            assert worker.poll() is None and time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        assert health(image, environment) == 0
        worker.terminate()
        assert worker.wait(60) == 0, log.read_text()
        assert not is_listening(port)
    finally:
        worker.kill()
        worker.wait(60)


def test_the_image_for_cpus_is_not_built_without_the_index_of_its_pytorch(tmp_path: Path) -> None:
    lines = stages((REPOSITORY / "Dockerfile").read_text("utf-8"), "cpu")
    [script] = [line for line in lines if "$TORCH_INDEX" in line and line.startswith("RUN ")]
    script = re.sub(r"^RUN|--mount=\S+", "", script)
    done = subprocess.run(
        ["sh", "-euc", script],
        env={"PATH": os.environ["PATH"], "TORCH_INDEX": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "KIND=cpu needs --build-arg TORCH_INDEX=https://...\n"


def test_the_image_with_weights_names_the_folder_they_lie_in(tmp_path: Path) -> None:
    image = Image(tmp_path, "cuda", {"MODEL_ID": "owner/name"})
    text = (REPOSITORY / "Dockerfile").read_text("utf-8")
    (line,) = re.findall(r"^ENV (MODEL_ID=.*)$", text, re.MULTILINE)
    image.do_env(line)
    assert image.variables["MODEL_ID"] == "/models/owner/name"
