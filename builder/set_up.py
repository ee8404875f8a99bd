"""Makes `.venv`, with what a worker needs or with the developers' tools as well.

    python3 builder/set_up.py worker
    python3 builder/set_up.py developer

Two that are started at once take turns, and the second finds its work done. Nothing but Python
itself is needed.

The registry has PyTorch for Linux with CUDA in it. The small build for CPUs is in an index of
PyTorch's own, whose address `TORCH_INDEX` names: `make run TORCH_INDEX=https://...`.
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
# By what it is for: the file of requirements, and what is fetched, in words. The sizes are those
# of docs/benchmarks.md, "From nothing to the first answer".
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
# What the driver's kernel module makes known of itself.
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
    """The size of what a worker needs, before it is fetched, and how it could be smaller."""
    if kind != "worker":
        return "."
    if index:
        return f": {WITHOUT_CUDA} {index}."
    is_here = sys.platform != "linux" or DRIVER.exists()
    return f": {WITH_CUDA}." + ("" if is_here else f"\n{NO_DRIVER}")


def wait_for(lock: IO[str]) -> None:
    """Hold the lock until the file is closed, by whatever end this process comes to."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Waiting for another set-up of .venv to end.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def is_newer(stamp: Path, sources: list[Path]) -> bool:
    """Whether the stamp is there, and no source was changed after it."""
    if not stamp.exists():
        return False
    return all(source.stat().st_mtime <= stamp.stat().st_mtime for source in sources)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
