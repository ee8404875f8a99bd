"""Writes the locks: every package of the image, with the hash of its file.

    make lock

`requirements.lock` is the image's for GPUs. `requirements-cpu.lock` is the same without PyTorch and
the libraries of CUDA; the image for CPUs takes PyTorch's build for CPUs at the versions of
`requirements-cpu-torch.txt`, from an index that is named when it is built. That index is not
read here, so there are no hashes of those two files.

pip resolves builder/requirements.txt without installing anything. It takes the versions that the
Python in the argument has installed, so that the image gets what the tests ran with. Run it on
Linux x86_64 with the image's version of Python: other systems get other files.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "requirements.txt"
LOCK = FOLDER / "requirements.lock"
CPU_LOCK = FOLDER / "requirements-cpu.lock"
CPU_TORCH = FOLDER / "requirements-cpu-torch.txt"
# PyTorch, and what only its build with CUDA needs.
TORCH = ("torch", "torchaudio")
OF_CUDA = re.compile(r"(?:torch|torchaudio|triton|(?:nvidia|cuda)-[a-z0-9-]+)==")
# The version in the Dockerfile's base image.
PYTHON = (3, 12)
# Each virtual environment has these already, in a version that fits its Python.
SEEDS = frozenset({"pip", "setuptools", "wheel"})
HEAD = """\
# Every package of the image with the hash of its one file, for Python 3.12 on Linux x86_64.
# Made by builder/lock.py from requirements.txt; not to be edited by hand.
"""
CPU_HEAD = """\
# The packages of requirements.lock without PyTorch and CUDA's libraries, for the image for CPUs.
# Made by builder/lock.py; not to be edited by hand.
"""
CPU_TORCH_HEAD = """\
# PyTorch at the versions of requirements.lock, for the image for CPUs, from TORCH_INDEX.
# Made by builder/lock.py; not to be edited by hand.
"""
PINNED = tuple(f"{name}==" for name in TORCH)


def main() -> None:
    """Resolve, and write the lock."""
    if sys.version_info[:2] != PYTHON or platform.system() + platform.machine() != "Linuxx86_64":
        wanted = ".".join(map(str, PYTHON))
        sys.exit(f"the lock is made by Python {wanted} on Linux x86_64, as the image has it")
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text(installed(sys.argv[1]) if sys.argv[1:] else "")
        words = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--report", str(report)]
        sources = ["--constraint", str(constraints), "--requirement", str(REQUIREMENTS)]
        subprocess.run([sys.executable, "-m", "pip", "install", *words, *sources], check=True)
        LOCK.write_text(lock_of(json.loads(report.read_text())))
    CPU_LOCK.write_text(without_cuda(LOCK.read_text()))
    CPU_TORCH.write_text(torch_of(LOCK.read_text()))


def installed(python: str) -> str:
    """The packages that another Python has installed, as constraints for pip."""
    asked = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--exclude-editable"],
        check=True,
        capture_output=True,
    )
    packages = json.loads(asked.stdout)
    found = [f"{p['name']}=={p['version']}" for p in packages if p["name"] not in SEEDS]
    # A local suffix (+cu130) is another build of the same version.
    return "".join(line.partition("+")[0] + "\n" for line in found)


def lock_of(report: dict[str, Any]) -> str:
    """The text of the lock: sorted names, each with a version and a hash, without addresses.

    `report` is pip's report of an installation. Raises KeyError for a package without a hash.
    """
    lines = []
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={item['metadata']['version']} --hash=sha256:{sha256}\n")
    return HEAD + "".join(sorted(lines))


def without_cuda(lock: str) -> str:
    """The lock of the image for CPUs, from that of the image for GPUs."""
    lines = [line for line in lock.splitlines(keepends=True) if not line.startswith("#")]
    return CPU_HEAD + "".join(line for line in lines if not OF_CUDA.match(line))


def torch_of(lock: str) -> str:
    """PyTorch's packages at the versions of the lock; their CPU builds have other hashes."""
    pins = [line.partition(" ")[0] for line in lock.splitlines()]
    return CPU_TORCH_HEAD + "".join(f"{pin}\n" for pin in pins if pin.startswith(PINNED))


if __name__ == "__main__":
    main()
