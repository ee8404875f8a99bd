"""One worker for all tests of the client."""

from collections.abc import Iterator

import pytest

from bench.workers import running_worker

KEY = "a-key"


@pytest.fixture(scope="package")
def worker() -> Iterator[str]:
    with running_worker(API_KEYS=KEY) as url:
        yield url
