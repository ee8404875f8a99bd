"""A browser for the console's tests, and a server that has the page."""

from collections.abc import Iterator

import pytest

from tests.support.chromium import browser, browser_path, open_any
from tests.support.ports import free_port
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.settings import Settings

__all__ = ["browser", "browser_path", "open_any", "pages"]


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The URL of a server that has the page, and no model behind it."""
    settings = Settings(host="127.0.0.1", port=free_port(), rate_limit_enabled=False)
    server = ServerThread(settings)
    server.start()
    yield f"http://127.0.0.1:{settings.port}"
    server.stop()
