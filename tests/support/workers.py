"""A worker process of one's own, on a free loopback port."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from voxtral_worker.settings import EMBEDDED_MODEL

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


FAULTY = Path(__file__).with_name("faulty_handler.py")


@dataclass(frozen=True)
class RunningWorker:
    """A worker that is ready."""

    url: str
    process: "subprocess.Popen[bytes]"

    def break_something(self) -> None:
        """Have the model's next layer fail; for a worker that was started with `is_faulty`."""
        self.process.send_signal(signal.SIGUSR1)


@contextmanager
def running_worker(log_path: Path | None = None, /, **settings: str) -> Iterator[str]:
    """The URL of a worker with the embedded model and no rate limits; stopped at the end.

    Its log is written to `log_path` if there is one.
    Raises RuntimeError with its log when it does not become ready, or does not end well.
    """
    with running_process(settings, log_path) as worker:
        yield worker.url


@contextmanager
def running_process(
    settings: Mapping[str, str],
    log_path: Path | None = None,
    *,
    is_faulty: bool = False,
    script: Path | None = None,
) -> Iterator[RunningWorker]:
    """As `running_worker`; one that `is_faulty` fails on a signal.

    `script` is run instead of the module: RunPod's way in, where there is a job API.
    """
    port = free_port()
    given = {"HOST": "127.0.0.1", "PORT": str(port), "RATE_LIMIT_ENABLED": "false", "DEVICE": "cpu"}
    if is_faulty:
        # On a Pod the way in serves, and does nothing else.
        given |= {"RUNPOD_POD_ID": "pod", "MODEL_ID": str(EMBEDDED_MODEL)}
        script = FAULTY
    with tempfile.TemporaryFile() if log_path is None else log_path.open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, *(["-m", "voxtral_worker"] if script is None else [str(script)])],
            env={**os.environ, **given, **settings},
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/ping", process)
            yield RunningWorker(f"http://127.0.0.1:{port}", process)
        except TimeoutError as error:
            log.seek(0)
            raise RuntimeError(log.read().decode()) from error
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)
        if process.returncode != 0:
            log.seek(0)
            raise RuntimeError(
                f"the worker exited with {process.returncode}: {log.read().decode()}"
            )


def wait_until_ready(
    url: str, process: "subprocess.Popen[bytes]", timeout_s: float = READY_TIMEOUT_S
) -> None:
    """Return when an address answers with 200. Raises TimeoutError when it never does."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:  # it does not listen yet, or is too busy to answer
            pass
        time.sleep(0.1)
    raise TimeoutError("the worker did not become ready")
