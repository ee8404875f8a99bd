"""What the JavaScript client is run with."""

from tests.support.chromium import browser, browser_path, open_any

__all__ = ["browser", "browser_path", "open_any"]
