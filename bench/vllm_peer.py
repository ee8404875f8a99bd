"""vLLM, serving the same weights as the worker on loopback.

Its CPU build is in a virtual environment of its own under `.peers/`, which is made when it is first
needed: several GB, because it needs another PyTorch than the worker.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mistral_format import write_mistral_format
from tests.support.ports import free_port
from tests.support.workers import wait_until_ready
from voxtral_worker.settings import EMBEDDED_MODEL

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = REPOSITORY / ".peers" / "vllm"
REQUIREMENTS = REPOSITORY / "builder" / "requirements-vllm.txt"
READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
INSTALL_TIMEOUT_S = 1800.0
# vLLM does not need these. Builds for another PyTorch break its imports.
NOT_NEEDED = ("torchvision", "torchcodec")


def install_vllm() -> Path:
    """The Python of vLLM's environment, which is made if it does not exist.

    Raises RuntimeError with the end of pip's output if vLLM cannot be installed.
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


@dataclass(frozen=True)
class Serving:
    """What vLLM serves, and where: on one core, or with a share of a GPU's memory."""

    model: Path
    name: str
    dtype: str
    core: int | None = None
    memory: float = 0.6
    # Whether `model` is in Mistral's own format already.
    is_converted: bool = False

    def arguments(self, folder: str, port: int) -> list[str]:
        """The arguments of vLLM's server."""
        modes = ("--tokenizer-mode", "--config-format", "--load-format")
        device = [] if self.core is not None else ["--gpu-memory-utilization", str(self.memory)]
        return [
            *("--model", folder, "--served-model-name", self.name),
            *(word for mode in modes for word in (mode, "mistral")),
            *("--dtype", self.dtype, "--max-model-len", "4096", *device),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def environment(self) -> dict[str, str]:
        """The environment variables for vLLM."""
        quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        if self.core is None:
            return quiet
        one_core = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(self.core),
            "OMP_NUM_THREADS": "1",
        }
        return quiet | one_core


def embedded(core: int) -> Serving:
    """The embedded model in float32 on one core."""
    return Serving(EMBEDDED_MODEL, EMBEDDED_MODEL.name, "float32", core)


@contextmanager
def running_vllm(python: Path, serving: Serving) -> Iterator[str]:
    """The URL of a server, which is stopped at the end of the `with` block.

    Raises RuntimeError with the end of its output if it does not become ready.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        if serving.is_converted:
            folder = str(serving.model)
        else:
            write_mistral_format(serving.model, Path(folder))
        process = subprocess.Popen(
            [
                *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
                *serving.arguments(folder, port),
            ],
            env={**os.environ, **serving.environment()},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/health", process, READY_TIMEOUT_S)
            yield f"http://127.0.0.1:{port}"
        except TimeoutError as error:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-4000:]) from error
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
