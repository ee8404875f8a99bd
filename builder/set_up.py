"""Makes `.venv`, with what a worker needs, or with the developers' tools in addition.

    python3 builder/set_up.py worker
    python3 builder/set_up.py developer

It needs nothing but Python. If two are started at once, the second waits for the first and then
finds the work done.

In the package registry, PyTorch for Linux comes with CUDA. PyTorch's own index has the small build
for CPUs; `TORCH_INDEX` is its address: `make run TORCH_INDEX=https://...`.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv"
OLDEST = (3, 11)
# For each use: the file of requirements, and words for what is downloaded. The sizes come from
# docs/benchmarks.md, "From nothing to the first answer".
KINDS = {
    "worker": ("requirements.txt", "what a worker needs"),
    "developer": ("requirements-dev.txt", "the developers' tools, about 0.2 GB"),
}
WITH_CUDA = "about 3 GB (5.5 GB on disk), nearly all of it PyTorch with CUDA's libraries"
WITHOUT_CUDA = "about 0.4 GB, as PyTorch's build for CPUs is taken from"
NO_DRIVER = """\
This machine has no NVIDIA driver, so PyTorch's build for CPUs (0.2 GB) is enough. The package
registry does not have it. To use it, stop this with Ctrl-C and name PyTorch's index of CPU builds,
whose address is on PyTorch's page on how to install it: make run TORCH_INDEX=https://..."""
# The kernel module of NVIDIA's driver creates this file.
DRIVER = Path("/proc/driver/nvidia/version")


def main(kind: str) -> int:
    """Bring `.venv` up to date for one kind of use. Returns the exit code."""
    if sys.version_info < OLDEST:
        sys.stderr.write(
            "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 run\n"
        )
        return 1
    requirements, fetched = KINDS[kind]
    wanted = ROOT / "builder" / requirements
    stamp = FOLDER / f".set-up-{kind}"
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        wait_for(lock)
        if is_newer(
            stamp, [wanted, ROOT / "builder" / "requirements.txt", ROOT / "pyproject.toml"]
        ):
            return 0
        index = os.environ.get("TORCH_INDEX", "").strip()
        print(f"Fetching {fetched}{how_much(kind, index)}", flush=True)
        pip = [
            str(FOLDER / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
        ]
        for command in (
            [sys.executable, "-m", "venv", str(FOLDER)],
            [*pip, *(["--extra-index-url", index] if index else []), "--requirement", str(wanted)],
            [*pip, "--quiet", "--no-deps", "--editable", str(ROOT)],
        ):
            if exit_code := subprocess.call(command):
                return exit_code
        stamp.touch()
    return 0


def how_much(kind: str, index: str) -> str:
    """Words for the size of the download, and for how it could be smaller."""
    if kind != "worker":
        return "."
    if index:
        return f": {WITHOUT_CUDA} {index}."
    is_here = sys.platform != "linux" or DRIVER.exists()
    return f": {WITH_CUDA}." + ("" if is_here else f"\n{NO_DRIVER}")


def wait_for(lock: IO[str]) -> None:
    """Wait for the lock. It is released when the file is closed, however this process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Waiting for another set-up of .venv to end.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def is_newer(stamp: Path, sources: list[Path]) -> bool:
    """Whether the stamp exists, and no source was changed after it."""
    if not stamp.exists():
        return False
    return all(source.stat().st_mtime <= stamp.stat().st_mtime for source in sources)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
