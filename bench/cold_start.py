"""Measures the time from the process's start to `/ping` 204 and 200, and of each step between."""

import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from tests.support.ports import free_port
from tests.support.workers import STOP_TIMEOUT_S

RUNS = 5
TIMEOUT_S = 120.0
POLL_S = 0.01


def _ping(port: int) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def start_once() -> dict[str, float]:
    """Seconds to each status, and of each step that the worker logs. Raises TimeoutError."""
    port = free_port()
    given = {"HOST": "127.0.0.1", "PORT": str(port), "DEVICE": "cpu", "LOG_FORMAT": "text"}
    took: dict[str, float] = {}
    with tempfile.TemporaryFile() as log:
        started_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "voxtral_worker"],
            env={**os.environ, **given},
            stdout=log,
            stderr=log,
        )
        try:
            while "/ping 200" not in took:
                elapsed_s = time.monotonic() - started_s
                if elapsed_s > TIMEOUT_S or process.poll() is not None:
                    raise TimeoutError("the worker did not become ready")
                took.setdefault(f"/ping {_ping(port)}", elapsed_s)
                time.sleep(POLL_S)
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)
        log.seek(0)
        steps = re.findall(r"cold start: (\S+) took ([\d.]+) s", log.read().decode())
    return {**took, **{name: float(seconds) for name, seconds in steps}}


def run() -> None:
    """Print the table: medians of some starts with the embedded model."""
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(RUNS):
        for name, seconds in start_once().items():
            figures[name].append(seconds)
    print(f"\nCold start with the embedded model, medians of {RUNS} starts\n")
    print("| | s |\n| --- | --- |")
    for name, values in figures.items():
        if name != "/ping None":
            print(f"| {name} | {statistics.median(values):.2f} |")


if __name__ == "__main__":
    run()
