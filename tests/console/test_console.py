"""The page at `/` in a real browser: press, talk, see the words."""

import asyncio
import contextlib
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


class CuttableLine:
    """A TCP proxy on loopback whose connections can all be cut at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()

    async def listen(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            pipe = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()


async def test_a_dropped_connection_is_taken_up_again(worker: str) -> None:
    line = CuttableLine(int(worker.rsplit(":", 1)[1]))
    async with open_page(await line.listen()) as page:
        opened: list[str] = []
        page.on("websocket", lambda socket: opened.append(socket.url))
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text("How can I help", timeout=WAIT_MS)
        line.cut()
        async with asyncio.timeout(WAIT_MS / 1000):
            while len(opened) < 2:
                await asyncio.sleep(0.05)
        assert "last_seq=" in opened[1]
        await page.get_by_label("Text to send").fill("good night")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text("Good night!", timeout=WAIT_MS)
        # What was seen before the cut is not written again.
        assert (await page.locator("#turns").inner_text()).count("How can I help") == 1
    await line.close()
