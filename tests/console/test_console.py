"""The page at `/` in a real browser: press, talk, see the words."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, async_playwright, expect

from bench.workers import running_worker
from voxtral_worker.settings import EMBEDDED_MODEL

CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
SAID = "You said: Turn on the kitchen light."
WAIT_MS = 30_000
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
def worker() -> Iterator[str]:
    if CHROMIUM is None:
        line = "the console's tests need a browser: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(line)
        pytest.skip(line)
    with running_worker() as url:
        yield url


@asynccontextmanager
async def open_page(url: str, width: int = 1440, scheme: str = "light") -> AsyncIterator[Page]:
    """A page of the console; whatever it throws fails the test."""
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        thrown: list[str] = []
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.set_default_timeout(WAIT_MS)
        await page.goto(url)
        yield page
        await browser.close()
        assert thrown == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
async def test_what_is_spoken_is_answered_on_the_page(worker: str, width: int, scheme: str) -> None:
    async with open_page(worker, width, scheme) as page:
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#turns")).to_contain_text(SAID, timeout=WAIT_MS)
        scrolls = await page.evaluate(
            "[...document.querySelectorAll('body, .dock, .composer, main')]"
            ".some(element => element.scrollWidth > element.clientWidth + 1)"
        )
        assert not scrolls


async def test_what_is_typed_is_answered_on_the_page(worker: str) -> None:
    async with open_page(worker) as page:
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text(
            "Hello! How can I help you?", timeout=WAIT_MS
        )


async def test_the_page_says_that_the_tiny_model_runs(worker: str) -> None:
    async with open_page(worker) as page:
        await expect(page.locator("#tiny")).to_be_visible(timeout=WAIT_MS)


async def test_a_dropped_connection_is_taken_up_again(worker: str) -> None:
    async with open_page(worker) as page:
        await page.add_init_script(
            "window.sockets = []; const Plain = WebSocket;"
            "window.WebSocket = class extends Plain {"
            "  constructor(...address) { super(...address); window.sockets.push(this); } };"
        )
        await page.reload()
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text("How can I help", timeout=WAIT_MS)
        await page.evaluate("window.sockets.at(-1).close(4000)")
        async with asyncio.timeout(WAIT_MS / 1000):
            while await page.evaluate("window.sockets.length") < 2:
                await asyncio.sleep(0.05)
        assert "last_seq=" in await page.evaluate("window.sockets[1].url")
        await page.get_by_label("Text to send").fill("good night")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text("Good night!", timeout=WAIT_MS)
        # What was seen before the drop is not written again.
        assert (await page.locator("#turns").inner_text()).count("How can I help") == 1
