"""What the JavaScript client is run with: a browser, and speech."""

from tests.console.conftest import browser, browser_path, open_any
from tests.docs.conftest import spoken

__all__ = ["browser", "browser_path", "open_any", "spoken"]
