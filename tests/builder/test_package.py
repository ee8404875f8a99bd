"""The wheel: what it holds, and what it asks for."""

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from voxtral_worker import __version__
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
SOURCE = REPOSITORY / "src"
BUILD = """
import sys, setuptools.build_meta
print(setuptools.build_meta.build_wheel(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it, from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    garbage = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "models"):
        shutil.copytree(REPOSITORY / name, checkout / name, symlinks=True, ignore=garbage)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, checkout)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = SOURCE / "voxtral_worker"
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    model = {path for path in EMBEDDED_MODEL.rglob("*") if path.is_file()}
    assert len(model) > 10
    wanted = {str(path.relative_to(SOURCE)) for path in files}
    wanted |= {f"voxtral_worker/voxtral-tiny/{path.relative_to(EMBEDDED_MODEL)}" for path in model}
    turn_model = (REPOSITORY / "models" / "smart-turn").iterdir()
    wanted |= {f"voxtral_worker/smart-turn/{path.name}" for path in turn_model}
    assert packed == wanted


def test_the_wheel_runs_outside_a_checkout_with_its_own_model(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import json, voxtral_worker\n"
        "from voxtral_worker.checkpoint import problem_with\n"
        "from voxtral_worker.server.app import CLIPS\n"
        "from voxtral_worker.settings import EMBEDDED_MODEL, TURN_MODEL\n"
        "print(json.dumps([voxtral_worker.__file__, str(EMBEDDED_MODEL),"
        " problem_with(EMBEDDED_MODEL), CLIPS.is_dir(), TURN_MODEL.is_file()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    package = tmp_path / "voxtral_worker"
    model = str(package / "voxtral-tiny")
    assert json.loads(done.stdout) == [str(package / "__init__.py"), model, None, True, True]


def test_the_wheel_has_the_one_version_and_the_command(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "voxtral = voxtral_worker.client.command:main" in archive.read(name).decode()


def names(requirements: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(text) for text in requirements]
    return {canonicalize_name(each.name): each for each in parsed}


def pinned(name: str) -> dict[str, Requirement]:
    lines = (REPOSITORY / "builder" / name).read_text("utf-8").splitlines()
    return names([line for line in lines if line and not line.startswith("#")])


def test_what_is_installed_by_pins_is_what_the_package_and_its_extras_allow() -> None:
    extras = PROJECT["optional-dependencies"]
    ranges = names([*PROJECT["dependencies"], *extras["worker"], *extras["runpod"]])
    del ranges["voxtral-worker"]
    for wanted, pins in (
        (ranges, pinned("requirements.txt")),
        (names(extras["talk"]), pinned("requirements-talk.txt")),
    ):
        assert wanted.keys() == pins.keys()
        for name, pin in pins.items():
            [version] = [each.version for each in pin.specifier]
            assert wanted[name].specifier.contains(version), name
            assert wanted[name].extras == pin.extras


def test_the_client_imports_nothing_but_what_the_package_alone_brings() -> None:
    owners = importlib.metadata.packages_distributions()
    base = names(PROJECT["dependencies"]).keys()
    imported = set()
    for file in (SOURCE / "voxtral_worker" / "client").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            imported |= {module.partition(".")[0] for module in modules}
    imported -= sys.stdlib_module_names | {"voxtral_worker"}
    assert {canonicalize_name(owner) for name in imported for owner in owners[name]} == base


def test_without_the_job_loops_library_a_server_starts_as_far_as_its_libraries() -> None:
    code = (
        "import sys; sys.modules['runpod'] = None\n"
        "import voxtral_worker.worker, voxtral_worker.server.app\n"
        "import voxtral_worker.engine.engine, voxtral_worker.turns.vad"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
