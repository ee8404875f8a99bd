"""Chromium for tests of pages: its arguments, and fixtures that open pages in it."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from voxtral_worker.settings import EMBEDDED_MODEL

CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)
OpenPage = Callable[..., AbstractAsyncContextManager[Page]]
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    f"--use-file-for-fake-audio-capture={CLIP}%noloop",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
]


@pytest.fixture(scope="module")
def browser_path() -> str:
    line = "the console's tests need a browser: apt-get install chromium"
    if CHROMIUM is None and os.environ.get("CI") == "true":
        pytest.fail(line)
    if CHROMIUM is None:
        pytest.skip(line)
    return CHROMIUM


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(browser_path: str) -> AsyncIterator[Browser]:
    """One for all tests of a module, whose loop they share."""
    async with async_playwright() as play:
        running = await play.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
        yield running
        await running.close()


@pytest.fixture(scope="module")
def open_any(browser: Browser) -> OpenPage:
    """Opens pages; whatever they throw fails the test."""

    @asynccontextmanager
    async def open_one(
        url: str, width: int = 1440, height: int = 800, scheme: str = "light"
    ) -> AsyncIterator[Page]:
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            permissions=["microphone", "clipboard-read", "clipboard-write"],
        )
        page = await context.new_page()
        thrown: list[str] = []
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.set_default_timeout(WAIT_MS)
        if url:
            await page.goto(url)
        yield page
        await context.close()
        assert thrown == []

    return open_one
