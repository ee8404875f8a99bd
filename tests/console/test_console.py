"""The page at `/` in a real browser: press, talk, see the words."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright, expect

from tests.cuttable_line import CuttableLine
from tests.server.running import RunningServer
from voxtral_worker.settings import EMBEDDED_MODEL

CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
SAID = "You said: Turn on the kitchen light."
WAIT_MS = 30_000
OpenPage = Callable[..., AbstractAsyncContextManager[Page]]
# One browser for all tests: so they share its loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")
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
async def open_page(browser_path: str, worker: str) -> AsyncIterator[OpenPage]:
    """Opens pages of the console in one browser; whatever they throw fails the test."""
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=browser_path, args=ARGUMENTS)

        @asynccontextmanager
        async def open_one(
            url: str = worker, width: int = 1440, scheme: str = "light"
        ) -> AsyncIterator[Page]:
            page = await browser.new_page(
                viewport={"width": width, "height": 800},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            thrown: list[str] = []
            page.on("pageerror", lambda error: thrown.append(str(error)))
            page.set_default_timeout(WAIT_MS)
            await page.goto(url)
            yield page
            await page.close()
            assert thrown == []

        yield open_one
        await browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
async def test_what_is_spoken_is_answered_on_the_page(
    open_page: OpenPage, width: int, scheme: str
) -> None:
    async with open_page(width=width, scheme=scheme) as page:
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#turns")).to_contain_text(SAID, timeout=WAIT_MS)
        scrolls = await page.evaluate(
            "[...document.querySelectorAll('body, .dock, .composer, main')]"
            ".some(element => element.scrollWidth > element.clientWidth + 1)"
        )
        assert not scrolls


async def test_what_is_typed_is_answered_on_the_page(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text(
            "Hello! How can I help you?", timeout=WAIT_MS
        )


async def test_a_typed_message_is_one_turn_with_its_latency(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".latency-total")).to_contain_text("in all", timeout=WAIT_MS)
        await expect(page.locator(".turn")).to_have_count(1)


async def test_a_typed_message_that_is_refused_says_why_and_waits_no_longer(
    open_page: OpenPage,
) -> None:
    async with open_page() as page:
        await page.evaluate("document.getElementById('text').removeAttribute('maxlength')")
        await page.get_by_label("Text to send").fill("x" * 32_769)
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".turn")).to_contain_text("but may have 32768", timeout=WAIT_MS)
        await expect(page.locator(".turn")).not_to_contain_class("is-waiting")


async def test_a_worker_with_keys_is_used_after_one_was_given(
    open_page: OpenPage, start_server: Callable[..., RunningServer]
) -> None:
    async with open_page(start_server(api_keys=("open-sesame",)).url) as page:
        field = page.get_by_label("API key or token")
        await field.fill("wrong")
        await page.get_by_role("button", name="Use key").click()
        await expect(page.locator("#notice")).to_contain_text("API key", timeout=WAIT_MS)
        await field.fill("open-sesame")
        await page.get_by_role("button", name="Use key").click()
        await expect(field).to_be_hidden(timeout=WAIT_MS)
        await expect(page.locator("#connection")).to_have_text("Connected", timeout=WAIT_MS)


async def test_a_changed_setting_is_in_force_at_the_worker(open_page: OpenPage) -> None:
    async with open_page() as page:
        updates: list[str] = []
        page.on(
            "websocket",
            lambda socket: socket.on("framereceived", lambda frame: updates.append(str(frame))),
        )
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#connection")).to_have_text("Connected", timeout=WAIT_MS)
        await page.get_by_label("Mode").select_option("transcribe")
        await expect(page.locator("#turns")).to_contain_text(
            "Turn on the kitchen light.", timeout=WAIT_MS
        )
        told = [update for update in updates if '"config_updated"' in update]
        assert len(told) == 1
        assert '"mode": "transcribe"' in told[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
async def test_a_check_of_accessibility_finds_nothing(
    open_page: OpenPage, width: int, scheme: str
) -> None:
    async with open_page(width=width, scheme=scheme) as page:
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".latency-total")).to_be_visible(timeout=WAIT_MS)
        await page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        results = (await Axe().run(page, options={})).response
        found = [(rule["id"], rule["nodes"][0]["target"]) for rule in results["violations"]]
        assert found == []
        # It has looked, at the contrast of every text too.
        assert "color-contrast" in {rule["id"] for rule in results["passes"]}


async def test_a_clip_speaks_for_those_without_a_microphone(open_page: OpenPage) -> None:
    async with open_page(width=360, scheme="dark") as page:
        await page.get_by_text("No microphone?").click()
        await page.get_by_label("Let a recording speak for you").select_option("what time is it")
        await page.get_by_role("button", name="Play clip").click()
        await expect(page.locator("#floor")).to_have_text("Hearing you…", timeout=WAIT_MS)
        await expect(page.locator("#turns")).to_contain_text(
            "You said: What time is it?", timeout=WAIT_MS
        )
        await expect(page.get_by_role("button", name="Play clip")).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator(".latency-first")).to_contain_text("first word after")


async def test_a_clip_can_be_stopped(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.get_by_role("button", name="Play clip").click()
        await expect(page.locator("#floor")).to_have_text("Hearing you…", timeout=WAIT_MS)
        await page.get_by_role("button", name="Stop clip").click()
        await expect(page.get_by_role("button", name="Play clip")).to_be_visible(timeout=WAIT_MS)
        # What was said until then is a turn.
        await expect(page.locator(".latency-total")).to_be_visible(timeout=WAIT_MS)


@pytest.mark.parametrize("rate", [44_100, 48_000, 8_000])
async def test_the_microphone_is_brought_to_16_khz_without_folding(
    open_page: OpenPage, rate: int
) -> None:
    async with open_page() as page:
        answer = await page.evaluate(
            """async (rate) => {
                const { Resampler } = await import("/console/resampler.js");
                const loudness = (hertz) => {
                    const resampler = new Resampler(rate);
                    const out = [];
                    for (let block = 0; block * 128 < rate; block += 1) {
                        const samples = Float32Array.from({ length: 128 }, (_, i) =>
                            Math.sin((2 * Math.PI * hertz * (block * 128 + i)) / rate));
                        out.push(...resampler.push(samples));
                    }
                    const middle = out.slice(2000, -2000);
                    const power = middle.reduce((sum, x) => sum + x * x, 0) / middle.length;
                    return { count: out.length, level: Math.sqrt(2 * power) };
                };
                return { heard: loudness(1000), above: loudness(11000) };
            }""",
            rate,
        )
        assert abs(answer["heard"]["count"] - 16_000) < 100
        assert abs(answer["heard"]["level"] - 1) < 0.02
        assert rate == 8_000 or answer["above"]["level"] < 0.01


async def test_words_spoken_while_the_line_is_cut_are_not_lost(
    open_page: OpenPage, worker: str
) -> None:
    line = CuttableLine(int(worker.rsplit(":", 1)[1]))
    async with open_page(await line.listen()) as page:
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#floor")).to_contain_text("Hearing you", timeout=WAIT_MS)
        line.cut()
        await expect(page.locator("#connection")).not_to_have_text("Connected", timeout=WAIT_MS)
        await expect(page.locator("#turns")).to_contain_text(SAID, timeout=WAIT_MS)
        await expect(page.locator(".turn")).to_have_count(1)
    await line.close()


async def test_the_page_says_that_the_tiny_model_runs(open_page: OpenPage) -> None:
    async with open_page() as page:
        await expect(page.locator("#tiny")).to_be_visible(timeout=WAIT_MS)


async def test_a_dropped_connection_is_taken_up_again(open_page: OpenPage, worker: str) -> None:
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
