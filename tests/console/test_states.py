"""What the page shows in each state, fed with a worker's messages."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.support.chromium import WAIT_MS, OpenPage
from tests.support.fake_worker import HEALTH, METRICS, SESSION, FakeWorker

pytestmark = pytest.mark.asyncio(loop_scope="module")
OpenFake = Callable[..., AbstractAsyncContextManager[tuple[Page, FakeWorker]]]
FULL = (
    503,
    {"Retry-After": "20"},
    {
        "error": "17 sessions talk, which is what this worker can answer in time",
        "code": "AT_CAPACITY",
    },
)
BLOCKED = """
navigator.mediaDevices.getUserMedia = async () => {
    throw new DOMException("denied", "NotAllowedError");
};
"""
# What the page wants although the worker's default is another.
WANTED = {"interim": True, "transcript": True}
TOOLS = {"type": "array", "items": {"type": "object"}, "default": []}
VOICE = {"type": ["string", "null"], "maxLength": 64, "default": None}


@pytest.fixture(scope="module")
def open_fake(open_any: OpenPage, pages: str) -> OpenFake:
    """Opens the page before a fake worker."""

    @asynccontextmanager
    async def open_one(
        prepare: Callable[[FakeWorker], None] = lambda _: None,
        *,
        script: str = "",
        hash_: str = "",
        **screen: Any,
    ) -> AsyncIterator[tuple[Page, FakeWorker]]:
        async with open_any("", **screen) as page:
            fake = FakeWorker(page)
            prepare(fake)
            if script:
                await page.add_init_script(script)
            await fake.stand_in(f"{pages}/{hash_}")
            await expect(page.locator("#option-mode")).to_be_attached()
            yield page, fake

    return open_one


def full(fake: FakeWorker) -> None:
    fake.refusal = FULL


# The connection


async def test_whoever_is_refused_waits_for_a_place_and_is_not_recorded(
    open_fake: OpenFake,
) -> None:
    async with open_fake(full) as (page, fake):
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#connection")).to_have_text("Waiting for a place")
        await expect(page.locator("#floor")).to_have_text(
            "Waiting for a place. Nothing is recorded."
        )
        notice = page.locator(".notice[data-key=connection]")
        await expect(notice).to_contain_text("can answer in time. Trying again in")
        before = await notice.locator(".countdown").inner_text()
        await expect(notice.locator(".countdown")).not_to_have_text(before)
        fake.refusal = None
        await notice.get_by_role("button", name="Try now").click()
        await expect(page.locator("#connection")).to_have_text("Connected")
        await expect(notice).to_have_count(0)
        await expect(page.locator("#floor")).to_have_text("Listening…")
        async with asyncio.timeout(WAIT_MS / 1000):
            while not fake.audio_bytes:
                await asyncio.sleep(0.02)


async def test_a_notice_can_be_put_away(open_fake: OpenFake) -> None:
    async with open_fake(full) as (page, _):
        await page.get_by_role("button", name="Talk", exact=True).click()
        notice = page.locator(".notice[data-key=connection]")
        await notice.get_by_role("button", name="Dismiss").click()
        await expect(notice).to_have_count(0)


async def test_a_text_without_a_connection_is_not_sent_yet(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.is_reachable = False
        await fake.cut()
        await expect(page.locator("#connection")).to_have_text("Reconnecting…")
        await page.get_by_label("Text to send").fill("are you there")
        await page.get_by_role("button", name="Send").click()
        turn = page.locator(".turn").last
        await expect(turn).to_contain_text("Not sent yet")
        await expect(turn).not_to_contain_class("is-waiting")
        fake.is_reachable = True
        await fake.until_heard(text="are you there")
        await expect(turn).to_contain_class("is-waiting")
        await expect(turn).not_to_contain_text("Not sent yet")


async def test_words_of_the_microphone_are_kept_while_the_connection_is_lost(
    open_fake: OpenFake,
) -> None:
    async with open_fake() as (page, fake):
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#connection")).to_have_text("Connected")
        fake.is_reachable = False
        await fake.cut()
        await expect(page.locator("#floor")).to_have_text("Reconnecting… What you say is kept.")


async def test_an_ended_session_says_why_and_the_next_text_begins_another(
    open_fake: OpenFake,
) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        await fake.connections[-1].close(code=4408)
        await expect(page.locator(".notice")).to_contain_text("nothing was said for a while")
        # What was not answered until then can be asked again.
        await expect(page.locator(".problem")).to_contain_text("before this text was answered.")
        await expect(page.locator(".problem").get_by_role("button")).to_have_text("Try again")
        await expect(page.locator("#connection")).to_have_text("Not connected")
        await page.get_by_label("Text to send").fill("again")
        await page.get_by_role("button", name="Send").click()
        await fake.until_heard(text="again")
        assert len(fake.created) == 2
        await expect(page.locator(".notice")).to_have_count(0)


async def test_a_lost_session_begins_anew_for_whoever_talks(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#floor")).to_have_text("Listening…")
        await fake.connections[-1].close(code=4404)
        notice = page.locator(".notice[data-key=over]")
        await expect(notice).to_contain_text("A new one has begun, which knows nothing of this.")
        await expect(page.locator("#floor")).to_have_text("Listening…")
        assert len(fake.created) == 2


async def test_a_worker_that_cannot_be_reached_was_never_connected(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await page.unroute("**/session/create")
        await page.route("**/session/create", lambda route: route.abort())
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#connection")).to_have_text("Trying to connect…")
        await expect(page.locator("#floor")).to_have_text(
            "Trying to connect… What you say is kept."
        )
        notice = page.locator(".notice[data-key=connection]")
        await expect(notice).to_contain_text("The worker cannot be reached. Trying again in")
        await page.unroute("**/session/create")
        await page.route("**/session/create", fake.create)
        await notice.get_by_role("button", name="Try now").click()
        await expect(page.locator("#floor")).to_have_text("Listening…")


LOADING: dict[str, Any] = {
    "step": "model",
    "since_s": 21.4,
    "download": {"bytes": 3_950_000_000, "total_bytes": 9_400_000_000},
    "done": [{"step": "server", "took_s": 0.06}, {"step": "libraries", "took_s": 8.31}],
}
STARTING = {"status": "starting", "model": {"id": None}, "loading": LOADING}


def loading(fake: FakeWorker) -> None:
    fake.health = STARTING


async def test_a_worker_that_starts_shows_its_steps_without_being_asked(
    open_fake: OpenFake,
) -> None:
    async with open_fake(loading) as (page, fake):
        notice = page.locator(".notice[data-key=worker]")
        await expect(notice).to_contain_text("The worker is starting.")
        done = notice.locator(".is-done")
        await expect(done).to_have_text(["Server0.1 s", "Libraries8.3 s"])
        now = notice.locator(".is-under-way")
        await expect(now).to_contain_text("Model")
        await expect(now).to_contain_text("Downloading the weights: 42 %, 4.0 of 9.4 GB")
        # The seconds continue between two calls.
        await expect(now.locator(".took")).not_to_have_text("21.4 s")
        to_come = notice.locator(".is-to-come")
        await expect(to_come).to_have_text(["Speech detection", "Warm-up"])
        await notice.get_by_role("button", name="Dismiss").focus()
        done_now = [*LOADING["done"], {"step": "model", "took_s": 60.0}]
        next_step = {"step": "vad", "since_s": 0.1, "download": None, "done": done_now}
        fake.health = {**STARTING, "loading": next_step}
        await expect(done).to_have_count(3)
        await expect(notice.locator("progress")).to_have_count(0)
        await expect(notice.get_by_role("button", name="Dismiss")).to_be_focused()
        fake.health = HEALTH
        await expect(notice).to_have_count(0)


async def test_a_card_that_was_put_away_stays_away(open_fake: OpenFake) -> None:
    async with open_fake(loading) as (page, _):
        notice = page.locator(".notice[data-key=worker]")
        await notice.get_by_role("button", name="Dismiss").click()
        async with page.expect_response("**/health"):
            pass
        async with page.expect_response("**/health"):
            pass
        await expect(notice).to_have_count(0)


async def test_a_blocked_microphone_leaves_a_way_on(open_fake: OpenFake) -> None:
    async with open_fake(script=BLOCKED) as (page, fake):
        await page.get_by_role("button", name="Talk", exact=True).click()
        notice = page.locator(".notice[data-key=microphone]")
        await expect(notice).to_contain_text("The microphone is blocked.")
        await notice.get_by_role("button", name="How?").click()
        await expect(page.get_by_label("How to allow the microphone")).to_be_visible()
        await page.get_by_role("button", name="Close", exact=True).last.click()
        await notice.get_by_role("button", name="Play a clip instead").click()
        async with asyncio.timeout(WAIT_MS / 1000):
            while not fake.audio_bytes:
                await asyncio.sleep(0.02)


# Turns


async def test_what_was_said_is_shown_in_its_final_words(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.status("speech_started", turn_id="2")
        fake.say("transcript_partial", turn_id="2", text="turn on", stable_chars=4)
        said = page.locator(".turn").last.locator(".user .text")
        await expect(said).to_have_text("turn on …")
        fake.status("speech_ended", turn_id="2")
        fake.say("transcript", turn_id="2", text="Turn on the light.")
        await expect(said).to_have_text("Turn on the light.")
        await expect(said).not_to_contain_class("is-spoken")
        # A turn that continues is transcribed again.
        fake.status("turn_reopened", turn_id="2")
        fake.status("speech_ended", turn_id="2")
        fake.say("transcript", turn_id="2", text="Turn on the light in the kitchen.")
        await expect(said).to_have_text("Turn on the light in the kitchen.")


async def test_words_that_could_not_be_written_down_stay_a_guess(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.status("speech_started", turn_id="2")
        fake.say("transcript_partial", turn_id="2", text="turn on", stable_chars=4)
        fake.status("speech_ended", turn_id="2")
        failed = {"error": "no memory", "code": "GPU_OOM"}
        fake.say("transcript", turn_id="2", text="", **failed)
        user = page.locator(".turn").last.locator(".user")
        await expect(user).to_contain_text("guessed while you spoke · not written down: no memory")
        await expect(user.locator(".text")).to_have_text("turn on …")


async def test_a_withdrawn_answer_fades_and_makes_way(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.spoken("2")
        fake.say("text_delta", turn_id="2", text="The light")
        turn = page.locator(".turn").last
        await expect(turn.locator(".model .text")).to_have_text("The light")
        fake.status("turn_reopened", turn_id="2")
        await expect(turn).to_contain_class("is-withdrawn")
        await expect(page.locator("#floor")).to_have_text("Hearing you…")
        fake.status("speech_ended", turn_id="2")
        fake.status("processing", turn_id="2")
        fake.say("text_delta", turn_id="2", text="Both")
        await expect(turn.locator(".model .text")).to_have_text("Both")
        fake.answer("2", "Both lights are on.")
        await expect(turn.locator(".model .text")).to_have_text("Both lights are on.")
        await expect(turn).not_to_contain_class("is-withdrawn")
        await expect(page.locator(".turn")).to_have_count(2)


async def test_a_transcript_is_no_conversation(open_fake: OpenFake) -> None:
    async with open_fake(hash_="#mode=transcribe") as (page, fake):
        await fake.connect()
        fake.spoken("2")
        fake.say("text_delta", turn_id="2", text="Turn on")
        turn = page.locator(".turn").last
        await expect(turn.locator(".user .text")).to_have_text("Turn on")
        fake.answer("2", "Turn on the light.")
        await expect(turn.locator(".user .text")).to_have_text("Turn on the light.")
        await expect(turn.locator(".model")).to_be_hidden()


async def test_a_failed_turn_is_seen_and_can_be_tried_again(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        request_id = fake.heard[-1]["request_id"]
        failed = {"error": "the engine is out of memory", "code": "GPU_OOM"}
        fake.say("error", turn_id="1", request_id=request_id, **failed)
        problem = page.locator(".problem")
        await expect(problem).to_contain_text("The engine is out of memory.")
        await expect(problem).to_contain_text("GPU_OOM")
        fake.heard.clear()
        await problem.get_by_role("button", name="Try again").click()
        await fake.until_heard(type="text_input", text="hello")


async def test_a_turn_without_speech_listens_no_longer(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.status("speech_started", turn_id="2")
        fake.status("no_speech", turn_id="2")
        turn = page.locator(".turn").last
        await expect(turn.locator(".user .text")).to_have_text("No speech was heard.")
        await expect(turn.locator(".model")).to_be_hidden()


async def test_latencies_are_on_one_scale_and_summed_up(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        for turn_id, total_ms in (("2", 800), ("3", 3200)):
            fake.spoken(turn_id)
            fake.answer(turn_id, "Yes.", metrics={**METRICS, "total_ms": total_ms})
        await expect(page.locator(".latency")).to_have_count(2)
        widths = await page.locator(".latency-bar").evaluate_all(
            "bars => bars.map(bar => bar.getBoundingClientRect().width)"
        )
        assert widths[0] / widths[1] == pytest.approx(800 / 3200, rel=0.02)
        ticks = await page.locator(".latency-tick").evaluate_all(
            "ticks => ticks.map(tick => tick.getBoundingClientRect().left)"
        )
        assert ticks[0] == pytest.approx(ticks[1], abs=1)
        await expect(page.locator("#stats")).to_have_text(
            "2 turns · first word: median 600 ms, p95 600 ms · tokens: 2 in, 2 out"
        )


async def test_the_tokens_of_a_session_are_counted_with_the_rounds_of_tools(
    open_fake: OpenFake,
) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.spoken("2")
        usage = {"prompt_tokens": 1200, "completion_tokens": 15, "cached_tokens": 0}
        fake.answer("2", "", finish_reason="tool_calls", usage=usage)
        fake.answer("2", "Done.", usage={**usage, "completion_tokens": 7})
        await expect(page.locator("#stats")).to_contain_text("tokens: 2,400 in, 22 out")
        await page.get_by_role("button", name="New conversation").click()
        fake.spoken("3")
        fake.answer("3", "Yes.", usage=None)
        await expect(page.locator("#stats")).to_have_text(
            "1 turn · first word: median 600 ms, p95 600 ms"
        )


async def test_the_page_leaves_whoever_reads_where_they_are(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        for number in range(2, 30):
            fake.spoken(str(number))
            fake.answer(str(number), f"Answer {number}.")
        await expect(page.locator(".latency")).to_have_count(28)
        scroller = page.locator(".scroller")
        is_at_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 2"
        assert await scroller.evaluate(is_at_end)
        await scroller.evaluate("box => { box.scrollTop = 100; }")
        latest = page.get_by_role("button", name="Jump to latest")
        await expect(latest).to_be_visible()
        fake.spoken("30")
        fake.answer("30", "One more.")
        await expect(page.locator(".latency")).to_have_count(29)
        assert await scroller.evaluate("box => box.scrollTop") == 100
        await latest.click()
        assert await scroller.evaluate(is_at_end)
        await expect(latest).to_be_hidden()


async def test_a_low_screen_shows_the_beginning_of_an_empty_page(open_fake: OpenFake) -> None:
    async with open_fake(width=740, height=360) as (page, _):
        await page.set_viewport_size({"width": 741, "height": 361})
        await expect(page.get_by_text("Say something.")).to_be_in_viewport()
        assert await page.locator(".scroller").evaluate("box => box.scrollTop") == 0


async def test_only_answers_and_errors_are_read_aloud(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.status("speech_started", turn_id="2")
        await expect(page.locator("#floor")).to_have_text("Hearing you…")
        live = page.locator("[aria-live], [role=status], [role=alert], [role=log]")
        assert await live.evaluate_all("all => all.map(one => one.textContent).join('')") == ""
        fake.answer("2", "It is noon.")
        await expect(page.locator("#announcer")).to_have_text("It is noon.")


async def test_the_answer_can_be_stopped_only_while_there_is_one(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        stop = page.get_by_role("button", name="Stop answer")
        await fake.connect()
        await expect(stop).to_be_hidden()
        fake.spoken("2")
        await stop.click()
        await fake.until_heard(control_type="cancel")
        fake.status("cancelled", turn_id="2")
        fake.answer("2", "I was", finish_reason="interrupted")
        await expect(page.locator(".turn").last).to_contain_text("interrupted")
        await expect(stop).to_be_hidden()


async def test_the_space_bar_is_pushed_to_talk(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await page.keyboard.down("Space")
        await expect(page.locator("#floor")).to_have_text("Listening…")
        fake.status("speech_started", turn_id="1")
        await expect(page.locator("#floor")).to_have_text("Hearing you…")
        await page.keyboard.up("Space")
        await fake.until_heard(control_type="end_turn")
        fake.status("speech_ended", turn_id="1")
        await expect(page.locator("#floor")).to_have_text("Muted.")


# Tools and voices


async def test_tools_of_the_page_do_what_the_model_calls(open_fake: OpenFake) -> None:
    def with_tools(fake: FakeWorker) -> None:
        fake.options = {"tools": TOOLS}

    async with open_fake(with_tools) as (page, fake):
        await fake.connect()
        await page.get_by_role("tab", name="Tools").click()
        await page.get_by_label("Offer these tools to the model").check()
        update = await fake.until_heard(type="config_update")
        names = {tool["function"]["name"] for tool in update["config"]["tools"]}
        assert names == {"set_device", "set_timer", "dial"}
        fake.spoken("2")
        called = {
            "a1B2c3D4e": ("set_device", {"room": "kitchen", "device": "lights", "on": True}),
            "b1B2c3D4e": ("set_timer", {"amount": 5, "unit": "minutes"}),
            "c1B2c3D4e": ("dial", {"digits": "314"}),
            "d1B2c3D4e": ("launch", {}),
            "e1B2c3D4e": ("set_device", {"room": "cellar", "device": "light", "on": True}),
        }
        for call_id, (name, arguments) in called.items():
            fake.say("tool_call", turn_id="2", call_id=call_id, name=name, arguments=arguments)
        fake.answer("2", "", finish_reason="tool_calls")
        results = [await fake.until_heard(type="tool_result", call_id=call) for call in called]
        assert [result.get("is_error", False) for result in results] == [False] * 3 + [True] * 2
        assert results[4]["content"] == "there is no light in the cellar"
        await expect(page.locator(".lamp.is-on")).to_have_text("lighton")
        await expect(page.locator(".timer")).to_contain_text("5 minutes")
        await expect(page.locator("#phone")).to_have_text("Dialled 314")
        turn = page.locator(".turn").last
        await expect(turn).to_contain_text('set_timer(amount: 5, unit: "minutes") → done')
        # The same turn continues to its answer.
        await expect(turn).to_contain_class("is-waiting")
        fake.say("text_delta", turn_id="2", text="Done.")
        fake.answer("2", "Done.")
        await expect(turn.locator(".model .text")).to_have_text("Done.")
        await page.get_by_label("Offer these tools to the model").uncheck()
        await fake.until_heard(type="config_update", config={"tools": []})


async def test_a_worker_without_tools_shows_none(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        properties = await page.evaluate(
            "fetch('/openapi.json').then(r => r.json())"
            ".then(d => d.components.schemas.SessionConfig.properties)"
        )
        visible = await page.get_by_role("tab", name="Tools").is_visible()
        assert visible == ("tools" in properties)


async def test_a_spoken_answer_is_played_until_the_user_speaks(open_fake: OpenFake) -> None:
    def with_voice(fake: FakeWorker) -> None:
        fake.options = {"voice": VOICE}
        fake.health = {**HEALTH, "voices": ["default", "amy"]}

    async with open_fake(with_voice) as (page, fake):
        await fake.connect()
        await page.get_by_label("Voice").select_option("amy")
        await fake.until_heard(type="config_update", config={"voice": "amy"})
        fake.spoken("2")
        pieces = {"offset_ms": 0, "duration_ms": 20_000, "text": "A long story."}
        fake.say("audio", turn_id="2", **pieces)
        fake.send_sound(struct.pack("<h", 1000) * 24_000 * 20)
        await page.get_by_role("tab", name="Inspector").click()
        await expect(page.locator(".entry", has_text="sound")).to_contain_text("960000 bytes")
        # It is heard for longer than it is made.
        fake.answer("2", "A long story.")
        await expect(page.locator(".latency")).to_have_count(1)
        await expect(page.locator("#floor")).to_have_text("Answering…")
        await expect(page.get_by_role("button", name="Stop answer")).to_be_visible()
        await asyncio.sleep(0.3)
        fake.status("interrupted", turn_id="2")
        played = await fake.until_heard(control_type="played", turn_id="2")
        assert 0 < played["played_ms"] < 20_000
        await expect(page.get_by_role("button", name="Stop answer")).to_be_hidden()


async def test_a_worker_without_voices_offers_none(open_fake: OpenFake) -> None:
    def mute(fake: FakeWorker) -> None:
        fake.options = {"voice": VOICE}
        fake.health = {**HEALTH, "voices": []}

    async with open_fake(mute, hash_="#voice=amy") as (page, fake):
        await expect(page.get_by_label("Voice")).to_be_hidden()
        await page.wait_for_url(lambda url: "voice" not in url)
        await fake.connect()
        assert fake.created[0]["config"] == {**WANTED, "voice": None}


# Settings


async def test_the_form_has_the_options_that_the_worker_describes(open_fake: OpenFake) -> None:
    def with_options(fake: FakeWorker) -> None:
        fake.options = {
            "humour": {"enum": ["dry", "wet"], "default": "dry"},
            "patience_ms": {"type": "integer", "minimum": 0, "maximum": 500, "default": 20},
            "motto": {
                "type": ["string", "null"],
                "default": None,
                "description": "Words to live by.",
            },
            "sings": {"type": "boolean", "default": False},
            "shapes": {"type": "object"},
        }

    async with open_fake(with_options) as (page, fake):
        await page.get_by_text("More options").click()
        await page.get_by_label("Humour").select_option("wet")
        await page.get_by_label("Patience").fill("50")
        await page.get_by_label("Motto").fill("never mind")
        await expect(page.get_by_text("Words to live by.")).to_be_visible()
        await page.get_by_label("Sings").check()
        await page.get_by_label("Stop texts").fill("one\ntwo")
        await page.get_by_label("Stop texts").blur()
        await fake.connect()
        config = fake.created[0]["config"]
        new = {"humour": "wet", "patience_ms": 50, "motto": "never mind", "sings": True}
        assert config == {**new, "stop": ["one", "two"], **WANTED}
        await expect(page.get_by_label("Shapes")).to_have_count(0)


async def test_every_option_of_a_session_is_in_the_form(open_fake: OpenFake) -> None:
    async with open_fake() as (page, _):
        names = await page.locator("#settings [name]").evaluate_all("all => all.map(e => e.name)")
        properties = await page.evaluate(
            "fetch('/openapi.json').then(r => r.json())"
            ".then(d => Object.keys(d.components.schemas.SessionConfig.properties))"
        )
        own = {"sample_rate", "encoding", "output_sample_rate", "output_encoding", "tools"}
        assert set(names) == set(properties) - own


async def test_chosen_settings_are_in_the_address_and_come_from_there(
    open_fake: OpenFake,
) -> None:
    chosen = "#temperature=0.7&system_prompt=Be+brief.&stop=a%0Ab&nonsense=1&top_p=7"
    async with open_fake(hash_=chosen) as (page, fake):
        await expect(page.locator(".notice[data-key=address]")).to_contain_text("nonsense, top_p")
        await fake.connect()
        config = {"temperature": 0.7, "system_prompt": "Be brief.", "stop": ["a", "b"]}
        assert fake.created[0]["config"] == {**config, **WANTED}
        await page.get_by_label("Temperature").fill("0.9")
        await page.get_by_label("Language").select_option("fr")
        await page.wait_for_url("**/#*language=fr*")
        assert "temperature=0.9" in page.url
        await page.get_by_role("button", name="Reset").click()
        await expect(page.get_by_label("Temperature")).to_have_value("0.2")
        assert "#" not in page.url
        # Another address, in the same page: only what differs goes to the worker.
        fake.heard.clear()
        await page.evaluate("location.hash = '#top_p=0.5'")
        await fake.until_heard(type="config_update", config={"top_p": 0.5})


async def test_a_refused_option_leaves_the_form_as_the_worker_has_it(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        await page.get_by_label("Temperature").fill("0.9")
        await fake.until_heard(type="config_update", config={"temperature": 0.9})
        error = "config temperature is 1.5, but must be a number from 0 to 1"
        fake.connections[-1].send(
            json.dumps({"type": "error", "error": error, "code": "INVALID_REQUEST"})
        )
        await expect(page.locator(".notice.is-error")).to_contain_text("Config temperature is 1.5")
        await expect(page.get_by_label("Temperature")).to_have_value("0.9")


# The inspector, the code, the export


async def test_the_inspector_shows_every_message_as_it_was(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        fake.answer("1", "Hi.", source="text", request_id=fake.heard[0]["request_id"])
        await page.get_by_role("tab", name="Inspector").click()
        await expect(page.locator("#session-id")).to_have_text(SESSION)
        await expect(page.locator(".entry.is-out", has_text="text_input")).to_contain_text("hello")
        entry = page.locator(".entry.is-in", has_text="text_response")
        await entry.locator("summary").click()
        shown = json.loads(await entry.locator("pre").inner_text())
        assert (shown["text"], shown["metrics"]) == ("Hi.", METRICS)
        await entry.get_by_role("button", name="Copy JSON").click()
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert json.loads(copied) == shown
        await page.get_by_label("Filter of the events").fill("text_input")
        await expect(entry).to_be_hidden()
        await expect(page.locator(".entry.is-out", has_text="text_input")).to_be_visible()


async def test_the_conversation_can_be_exported(open_fake: OpenFake) -> None:
    async with open_fake() as (page, fake):
        await fake.connect()
        request_id = fake.heard[0]["request_id"]
        fake.answer("1", "Hi.", source="text", request_id=request_id)
        await expect(page.locator(".latency")).to_have_count(1)
        await page.get_by_role("tab", name="Inspector").click()
        texts = {}
        for kind in ("JSON", "text"):
            async with page.expect_download() as waiting:
                await page.get_by_role("button", name=f"Export {kind}").click()
            texts[kind] = (await (await waiting.value).path()).read_text("utf-8")
        exported = json.loads(texts["JSON"])
        [turn] = exported["turns"]
        assert (turn["said"], turn["answer"], turn["metrics"]) == ("hello", "Hi.", METRICS)
        assert exported["session_id"] == SESSION
        assert texts["text"] == "You: hello\nVoxtral: Hi.\n"


async def test_the_microphone_can_be_chosen(open_fake: OpenFake) -> None:
    async with open_fake() as (page, _):
        await page.get_by_role("tab", name="Sound").click()
        device = page.get_by_label("Microphone", exact=True)
        names = await device.locator("option").all_inner_texts()
        assert len(names) > 1
        await page.evaluate(
            """() => {
                const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
                window.asked = [];
                navigator.mediaDevices.getUserMedia = (wanted) => {
                    window.asked.push(wanted.audio.deviceId?.exact ?? "");
                    return ask(wanted);
                };
            }"""
        )
        chosen = await device.locator("option").last.get_attribute("value")
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#floor")).to_have_text("Listening…")
        await device.select_option(chosen)
        async with asyncio.timeout(WAIT_MS / 1000):
            while (asked := await page.evaluate("window.asked")) != ["", chosen]:
                assert len(asked) < 2
                await asyncio.sleep(0.05)


# Screens


async def test_a_telephone_that_is_turned_keeps_talk_on_its_screen(open_fake: OpenFake) -> None:
    async with open_fake(width=915, height=412) as (page, _):
        await expect(page.locator("#side")).to_be_visible()
        await page.set_viewport_size({"width": 412, "height": 915})
        await expect(page.locator("#side")).to_be_hidden()
        await expect(page.get_by_role("button", name="Talk", exact=True)).to_be_in_viewport(ratio=1)
        await page.get_by_role("button", name="Settings").click()
        await expect(page.locator("#option-mode")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#side")).to_be_hidden()
        await page.set_viewport_size({"width": 915, "height": 412})
        await expect(page.locator("#side")).to_be_visible()
        await expect(page.get_by_role("button", name="Talk", exact=True)).to_be_in_viewport(ratio=1)


STATES = ("empty", "starting", "answered", "talking", "error", "blocked", "capacity", "tools")


async def enter(state: str, page: Page, fake: FakeWorker) -> None:
    """Bring the page into a state."""
    if state in ("talking", "capacity", "blocked"):
        await page.get_by_role("button", name="Talk", exact=True).click()
    if state == "starting":
        await expect(page.locator(".steps")).to_be_visible()
    if state == "capacity":
        await expect(page.locator(".countdown")).to_be_visible()
    if state == "blocked":
        await expect(page.locator(".notice.is-error")).to_be_visible()
    if state == "talking":
        await expect(page.locator("#connection")).to_have_text("Connected")
        fake.status("speech_started", turn_id="1")
        fake.say("transcript_partial", turn_id="1", text="Turn on the kitchen", stable_chars=4)
        await expect(page.locator(".turn")).to_contain_text("Turn on the kitchen")
    if state in ("answered", "error", "tools"):
        await fake.connect()
        request_id = fake.heard[0]["request_id"]
        fake.answer("1", "Hello! How can I help you?", source="text", request_id=request_id)
        fake.spoken("2")
        await expect(page.locator(".turn")).to_have_count(2)
    if state == "answered":
        fake.say("transcript", turn_id="2", text="What is the weather tomorrow in the mountains?")
        answer = "Tomorrow it snows above two thousand metres, and it rains below. " * 3
        fake.answer("2", answer, metrics={**METRICS, "total_ms": 2400, "first_token_ms": 700})
        await expect(page.locator(".latency")).to_have_count(2)
    if state == "error":
        fake.say("error", turn_id="2", error="the engine is out of memory", code="GPU_OOM")
        await expect(page.locator(".problem")).to_be_visible()
    if state == "tools":
        given = {"room": "kitchen", "device": "light", "on": True}
        fake.say("tool_call", turn_id="2", call_id="a1B2c3D4e", name="set_device", arguments=given)
        await fake.until_heard(type="tool_result")
        fake.answer("2", "Done.")


def prepare_for(state: str) -> Callable[[FakeWorker], None]:
    def prepare(fake: FakeWorker) -> None:
        fake.refusal = FULL if state == "capacity" else None
        fake.options = {"tools": TOOLS}
        if state == "starting":
            fake.health = STARTING

    return prepare


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (768, "light"), (1440, "light")])
@pytest.mark.parametrize("state", STATES)
async def test_every_state_fits_its_screen_and_is_accessible(
    open_fake: OpenFake, state: str, width: int, scheme: str
) -> None:
    script = BLOCKED if state == "blocked" else ""
    screen = {"width": width, "height": 740, "scheme": scheme, "script": script}
    async with open_fake(prepare_for(state), **screen) as (page, fake):
        await enter(state, page, fake)
        too_wide = await page.evaluate(
            "[...document.querySelectorAll('body, header, main, .dock, .composer, .notice, .turn')]"
            ".filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.className)"
        )
        assert too_wide == []
        await expect(page.locator("#talk")).to_be_in_viewport(ratio=1)
        assert await violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
async def test_every_panel_is_accessible(open_fake: OpenFake, width: int, scheme: str) -> None:
    async with open_fake(prepare_for("tools"), width=width, scheme=scheme) as (page, fake):
        await enter("answered", page, fake)
        if width < 861:
            await page.get_by_role("button", name="Settings").click()
        await page.get_by_text("More options").click()
        found = []
        for tab in await page.get_by_role("tab").all():
            await tab.click()
            found += await violations(page)
        assert found == []


async def violations(page: Page) -> list[tuple[str, Any]]:
    results = (await Axe().run(page, options={})).response
    # It has looked, at the contrast of every text too.
    assert "color-contrast" in {rule["id"] for rule in results["passes"]}
    return [(rule["id"], rule["nodes"][0]["target"]) for rule in results["violations"]]
