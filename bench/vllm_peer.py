"""vLLM's CPU build, serving the embedded model on loopback.

It lives in a virtual environment of its own under `.peers/`, which is made when it is first
asked for: several GB, since it wants another PyTorch than the worker.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.mistral_format import write_mistral_format
from bench.workers import free_port
from voxtral_worker.settings import EMBEDDED_MODEL

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = REPOSITORY / ".peers" / "vllm"
REQUIREMENTS = REPOSITORY / "builder" / "requirements-vllm.txt"
READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
INSTALL_TIMEOUT_S = 1800.0
# Made for another PyTorch or for its CUDA build, they break imports that would do without.
NOT_NEEDED = ("torchvision", "torchcodec")


def install_vllm() -> Path:
    """The Python of vLLM's environment, made if it is not there.

    Raises RuntimeError, with pip's last words, where vLLM does not install.
    """
    python, done = HOME / "bin" / "python", HOME / ".installed"
    if done.exists() and done.read_text() == REQUIREMENTS.read_text():
        return python
    print("installing vLLM's CPU build, several GB …", file=sys.stderr, flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    _call(sys.executable, "-m", "venv", str(HOME))
    _call(str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS))
    _call(str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *NOT_NEEDED)
    for compiled in HOME.glob("lib/*/site-packages/torchaudio/lib"):
        shutil.rmtree(compiled)
    done.write_text(REQUIREMENTS.read_text())
    return python


def _call(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr or done.stdout).strip()[-2000:])


@contextmanager
def running_vllm(python: Path, core: int) -> Iterator[str]:
    """The URL of a server in float32 on one core; stopped at the end.

    Raises RuntimeError with its last words when it does not become ready.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        write_mistral_format(EMBEDDED_MODEL, Path(folder))
        process = subprocess.Popen(
            [str(python), "-m", "vllm.entrypoints.openai.api_server", *_arguments(folder, port)],
            env={**os.environ, **_environment(core)},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            if not _is_ready(f"http://127.0.0.1:{port}/health", process):
                log.seek(0)
                raise RuntimeError(log.read().decode(errors="replace")[-4000:])
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _arguments(folder: str, port: int) -> list[str]:
    modes = ("--tokenizer-mode", "--config-format", "--load-format")
    return [
        *("--model", folder, "--served-model-name", EMBEDDED_MODEL.name),
        *(word for mode in modes for word in (mode, "mistral")),
        *("--dtype", "float32", "--max-model-len", "4096"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]


def _environment(core: int) -> dict[str, str]:
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _is_ready(url: str, process: "subprocess.Popen[bytes]") -> bool:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return True
        except OSError:  # nobody listens yet, or is too busy starting to answer
            pass
        time.sleep(0.5)
    return False
