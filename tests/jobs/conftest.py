"""A job API on loopback and a worker that takes its jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.job_api import FakeJobApi, WorkerProcess


@pytest.fixture
def api() -> Iterator[FakeJobApi]:
    started = FakeJobApi()
    yield started
    started.close()


@pytest.fixture
def queue_worker(api: FakeJobApi, tmp_path: Path) -> Iterator[WorkerProcess]:
    started = WorkerProcess.on_queue(api, tmp_path / "log", DRAIN_TIMEOUT_SECONDS="5")
    yield started
    started.kill()
