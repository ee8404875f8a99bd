"""The page at `/` in a real browser: press, talk, see the words."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, Route, expect

from tests.support.chromium import CLIP, WAIT_MS, OpenPage
from tests.support.cuttable_line import CuttableLine
from tests.support.running_server import RunningServer
from tests.support.workers import running_worker
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY

SAID = "You said: Turn on the kitchen light."
# One browser for all tests: so they share its loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def open_page(open_any: OpenPage, worker: str) -> OpenPage:
    """Opens pages of the console, by default of the real worker."""

    @asynccontextmanager
    async def open_one(url: str = worker, **screen: object) -> AsyncIterator[Page]:
        async with open_any(url, **screen) as page:
            yield page

    return open_one


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


@pytest.fixture(scope="module")
def roomy() -> Iterator[str]:
    """The URL of a worker as one starts it; the one of the other tests has no room for tools."""
    with running_worker() as url:
        yield url


@pytest.mark.parametrize("is_spoken", [False, True])
async def test_the_lamp_goes_on_when_the_model_is_told_to_turn_it_on(
    open_page: OpenPage, roomy: str, is_spoken: bool
) -> None:
    async with open_page(roomy) as page:
        await page.get_by_role("tab", name="Tools").click()
        await page.get_by_label("Offer these tools to the model").check()
        if is_spoken:
            await page.get_by_role("button", name="Talk", exact=True).click()
        else:
            await page.get_by_label("Text to send").fill("turn on the kitchen light")
            await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".lamp.is-on")).to_have_text("lighton", timeout=WAIT_MS)
        await expect(page.locator("#turns")).to_contain_text("Done.", timeout=WAIT_MS)
        kitchen = page.locator(".room", has_text="kitchen")
        await expect(kitchen.locator(".lamp.is-on")).to_have_count(1)


async def test_a_session_that_another_worker_has_created_is_opened_by_the_socket(
    open_page: OpenPage,
) -> None:
    async with open_page() as page:
        elsewhere = {"session_id": "11111111-2222-4333-8444-555555555555", "expires_in": 300}
        calls = []

        async def create(route: Route) -> None:
            calls.append(route.request.url)
            await route.fulfill(json=elsewhere)

        await page.route("**/session/create", create)
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#turns")).to_contain_text(
            "Hello! How can I help you?", timeout=WAIT_MS
        )
        assert len(calls) == 1


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
        asks = page.get_by_text("This worker asks for an API key or a token.")
        await expect(asks.first).to_be_visible(timeout=WAIT_MS)
        await field.fill("wrong")
        await page.get_by_role("button", name="Use key").click()
        notice = page.locator(".notice[data-key=key]")
        await expect(notice).to_contain_text("That key was not accepted.", timeout=WAIT_MS)
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
        await page.get_by_label("Mode", exact=True).select_option("transcribe")
        await expect(page.locator("#turns")).to_contain_text(
            "Turn on the kitchen light.", timeout=WAIT_MS
        )
        told = [update for update in updates if '"config_updated"' in update]
        assert len(told) == 1
        assert '"mode": "transcribe"' in told[0]


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
        # What was said stands in its own words too.
        await expect(page.locator(".user .text")).to_have_text("What time is it?")
        await expect(page.locator(".latency-first")).to_contain_text("first word after")


async def test_a_clip_can_be_stopped(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.get_by_role("tab", name="Sound").click()
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
                const { Resampler } = await import("/client/resampler.js");
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
        await expect(page.locator(".notice[data-key=tiny]")).to_be_visible(timeout=WAIT_MS)


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


async def test_a_recording_of_ones_own_speaks_for_one(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.get_by_role("tab", name="Sound").click()
        await page.get_by_label("Your own recording").set_input_files(
            EMBEDDED_MODEL / "clips" / "what-time-is-it.wav"
        )
        await expect(page.locator("#turns")).to_contain_text(
            "You said: What time is it?", timeout=WAIT_MS
        )


async def test_a_recording_can_be_dropped_on_the_page(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.evaluate(
            """async (bytes) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(bytes)], "light.wav"));
                const drop = { bubbles: true, cancelable: true, dataTransfer: files };
                document.querySelector("main").dispatchEvent(new DragEvent("drop", drop));
            }""",
            list(CLIP.read_bytes()),
        )
        await expect(page.locator("#turns")).to_contain_text(SAID, timeout=WAIT_MS)


async def test_a_file_without_sound_is_refused_by_name(open_page: OpenPage) -> None:
    async with open_page() as page:
        await page.get_by_role("tab", name="Sound").click()
        await page.get_by_label("Your own recording").set_input_files(REPOSITORY / "LICENSE")
        await expect(page.locator(".notice.is-error")).to_contain_text(
            "LICENSE cannot be played: the browser cannot read this format.", timeout=WAIT_MS
        )


async def test_an_answer_is_spoken_with_a_voice_of_the_worker(open_page: OpenPage) -> None:
    async with open_page() as page:
        health = await page.evaluate("fetch('/health').then((response) => response.json())")
        if not health["voices"]:
            pytest.skip("this worker has no voices: its speech package is not installed")
        await page.get_by_label("Voice").select_option("default")
        await page.get_by_role("tab", name="Inspector").click()
        await page.get_by_label("Text to send").fill("hello")
        await page.get_by_role("button", name="Send").click()
        sound = page.locator(".entry .kind", has_text="sound")
        await expect(sound.first).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator("#floor")).to_have_text("Answering…", timeout=WAIT_MS)
        # The floor is free when all of it was heard, not when all of it was written.
        await expect(page.locator(".latency-total")).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator("#floor")).to_contain_text("Press Talk", timeout=WAIT_MS)


async def code_in(page: Page, language: str) -> str:
    await page.get_by_label("This session in").select_option(language)
    return await page.locator("#code").inner_text()


async def test_the_code_that_the_page_shows_runs_with_the_chosen_settings(
    open_page: OpenPage, worker: str
) -> None:
    async with open_page(
        f"{worker}/#temperature=0&stop=zebra&system_prompt=It%27s+%22me%22"
    ) as page:
        await page.get_by_role("tab", name="Code").click()
        chosen = {"temperature": 0, "stop": ["zebra"], "system_prompt": 'It\'s "me"'}
        python = await code_in(page, "python")
        assert 'system_prompt="It\'s \\"me\\""' in python
        told = await asyncio.to_thread(run, [sys.executable, "-c", python])
        assert told.strip() == "Hello! How can I help you?"
        curl = await code_in(page, "curl")
        session = json.loads(await asyncio.to_thread(run, ["sh", "-c", curl]))
        assert chosen.items() <= session["config"].items()
        javascript = await code_in(page, "javascript")
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        # As a page would have it, whose modules come from the worker.
        await page.add_script_tag(type="module", url=await served(page, javascript))
        async with asyncio.timeout(WAIT_MS / 1000):
            while "Hello! How can I help you?" not in heard:
                await asyncio.sleep(0.05)


async def served(page: Page, script: str) -> str:
    """The address of a script that the page's policy lets in."""
    await page.route(
        "**/console/shown.js",
        lambda route: route.fulfill(body=script, content_type="text/javascript"),
    )
    return "/console/shown.js"


def run(words: list[str]) -> str:
    done = subprocess.run(
        words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_reference_of_the_api_needs_nobody_else(
    open_any: OpenPage, worker: str, scheme: str
) -> None:
    async with open_any("", scheme=scheme) as page:
        asked: list[str] = []
        refused: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: refused.append(message.text))
        await page.goto(f"{worker}/docs")
        await expect(page.get_by_text("Create a session").first).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator("rapi-doc")).to_have_attribute("theme", scheme)
        assert f"{worker}/openapi.json" in asked
        assert [url for url in asked if not url.startswith((f"{worker}/", "data:"))] == []
        assert refused == []
