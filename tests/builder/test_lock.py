"""The lock of the image: every package in one version, as the hash of one file."""

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder import lock

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"([a-z0-9-]+)==([\w.]+) --hash=sha256:([0-9a-f]{64})")
# What markers are asked about in the image.
IMAGE = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "sys_platform": "linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def locked() -> dict[str, str]:
    """Name and version of every package in the lock."""
    found = {}
    for line in lock.LOCK.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match is not None, line
            assert match[1] not in found, line
            found[match[1]] = match[2]
    return found


def wanted() -> list[Requirement]:
    lines = lock.REQUIREMENTS.read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def needs_of(requirement: Requirement) -> Iterator[Requirement]:
    """What a package with these extras needs in the image."""
    for text in importlib.metadata.requires(requirement.name) or []:
        needed = Requirement(text)
        environments = [{**IMAGE, "extra": extra} for extra in ["", *requirement.extras]]
        if needed.marker is None or any(needed.marker.evaluate(each) for each in environments):
            yield needed


def test_every_line_is_one_file_by_its_hash_and_names_no_address() -> None:
    text = lock.LOCK.read_text("utf-8")
    assert len(locked()) > len(wanted())
    assert re.findall(r"://|@|--(?!hash=)|\.(?:org|com|io)\b", text) == []


def test_every_requirement_is_locked_at_a_version_that_fits() -> None:
    versions = locked()
    assert wanted()
    for requirement in wanted():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), (
            requirement
        )


def test_nothing_that_a_locked_package_needs_is_missing() -> None:
    versions, seen, left = locked(), set(), wanted()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        assert name in versions, requirement
        assert requirement.specifier.contains(versions[name], prereleases=True), requirement
        if (name, *sorted(requirement.extras)) not in seen:
            seen.add((name, *sorted(requirement.extras)))
            left += needs_of(requirement)
    # And nothing is in it that is not needed.
    assert {name for name, *_ in seen} == versions.keys()


def test_the_image_gets_the_versions_that_these_tests_run_with() -> None:
    installed = {
        canonicalize_name(found.metadata["Name"]): found.version.partition("+")[0]
        for found in importlib.metadata.distributions()
    }
    ours = {name: version for name, version in locked().items() if name not in lock.SEEDS}
    assert {name: installed.get(canonicalize_name(name)) for name in ours} == ours


def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    installs = re.findall(r"pip install ([^\n]+)", dockerfile)
    assert installs == [
        "--require-hashes --no-deps -r builder/requirements.lock",
        "--require-hashes --no-deps -r builder/requirements-cpu.lock",
        '--no-deps --index-url "$TORCH_INDEX" -r builder/requirements-cpu-torch.txt',
    ]
    sent = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert {f"!builder/{path.name}" for path in (lock.LOCK, lock.CPU_LOCK, lock.CPU_TORCH)} <= {
        *sent
    }


def test_the_locks_of_the_image_for_cpus_are_those_of_the_other_one_without_cuda() -> None:
    text = lock.LOCK.read_text("utf-8")
    again = "run: make lock"
    assert lock.CPU_LOCK.read_text("utf-8") == lock.without_cuda(text), again
    assert lock.CPU_TORCH.read_text("utf-8") == lock.torch_of(text), again
    left = set(lock.CPU_LOCK.read_text("utf-8").splitlines()[2:])
    gone = {line.split("==")[0] for line in text.splitlines()[2:] if line not in left}
    # What is gone is PyTorch and what it alone needs, and then only for CUDA.
    of_cuda = re.compile(r"triton|nvidia-|cuda-|torch")
    assert [name for name in gone if not of_cuda.match(name)] == []
    assert {"torch", "torchaudio", "triton", "nvidia-cublas"} <= gone
    of_torch = {canonicalize_name(each.name) for each in needs_of(Requirement("torch"))}
    assert {name for name in of_torch if not of_cuda.match(name)} <= {
        line.split("==")[0] for line in left
    }
    pins = lock.CPU_TORCH.read_text("utf-8").splitlines()[2:]
    assert set(pins) <= set(lock.REQUIREMENTS.read_text("utf-8").splitlines())
    assert [pin.split("==")[0] for pin in pins] == ["torch", "torchaudio"]


def test_the_lock_is_the_packages_of_a_report_in_order() -> None:
    def item(name: str, version: str, sha256: str) -> dict[str, object]:
        info = {"url": "https://a.example/x.whl", "archive_info": {"hashes": {"sha256": sha256}}}
        return {"metadata": {"name": name, "version": version}, "download_info": info}

    report = {"install": [item("Zed_One", "2.0", "b" * 64), item("a.b", "1.0", "a" * 64)]}
    assert lock.lock_of(report) == (
        f"{lock.HEAD}a-b==1.0 --hash=sha256:{'a' * 64}\nzed-one==2.0 --hash=sha256:{'b' * 64}\n"
    )
    report["install"][0]["download_info"]["archive_info"]["hashes"].clear()  # type: ignore[index]
    with pytest.raises(KeyError):
        lock.lock_of(report)


def test_constraints_are_what_is_installed_without_what_belongs_to_a_python() -> None:
    lines = lock.installed(sys.executable).splitlines()
    assert "aiohttp==" + importlib.metadata.version("aiohttp") in lines
    names = {line.partition("==")[0] for line in lines}
    assert not names & lock.SEEDS
    assert not any("+" in line for line in lines)


@pytest.mark.skipif(sys.version_info[:2] == lock.PYTHON, reason="the lock can be made here")
def test_another_python_than_the_images_makes_no_lock() -> None:
    before = lock.LOCK.read_bytes()
    with pytest.raises(SystemExit, match=r"Python 3\.12 on Linux x86_64"):
        lock.main()
    assert lock.LOCK.read_bytes() == before
