"""The JavaScript client, in a browser against a real worker; its types by their compiler."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page

from tests.support.chromium import WAIT_MS, OpenPage
from tests.support.cuttable_line import CuttableLine
from tests.support.declared_types import names_in
from tests.support.page_sound import LISTEN, TAKEN, PageSound, read_sound

pytestmark = pytest.mark.asyncio(loop_scope="module")
GREETING = "Hello! How can I help you?"
# Ends the script of a page with what it has found, or why it could not.
IMPORT = (
    'const { Voxtral, VoxtralError, Speaker, Microphone } = await import("/client/voxtral.js");'
)
ANSWER_OF = """
const answerOf = (voxtral, requestId) => new Promise((resolve, reject) => {
    voxtral.on("text_response", (m) => m.request_id === requestId && resolve(m.text));
    voxtral.on("error", (m) => reject(new Error(m.error)));
    voxtral.on("state", ({ state, code }) => state === "off" && reject(new Error(code)));
});
"""


@pytest.fixture(scope="module")
def open_blank(open_any: OpenPage) -> OpenPage:
    """Opens a page of a worker that is not the console."""

    @asynccontextmanager
    async def open_one(url: str) -> AsyncIterator[Page]:
        async with open_any(f"{url}/openapi.json") as page:
            yield page

    return open_one


async def run(page: Page, script: str, argument: Any = None) -> Any:
    return await page.evaluate(f"async (argument) => {{ {IMPORT} {ANSWER_OF} {script} }}", argument)


# Sessions


async def test_a_text_is_answered_by_its_request_id(open_blank: OpenPage, worker: str) -> None:
    script = """
    const voxtral = new Voxtral(location.origin, { config: { temperature: 0 } });
    let streamed = "";
    voxtral.on("text_delta", ({ text }) => { streamed += text; });
    const text = answerOf(voxtral, voxtral.sendText("hello"));
    await voxtral.open();
    const sessionId = voxtral.sessionId;
    const result = { text: await text, streamed, state: voxtral.state };
    await voxtral.close();
    const gone = await fetch(`/session/${sessionId}`);
    return { ...result, afterwards: voxtral.state, gone: gone.status };
    """
    async with open_blank(worker) as page:
        assert await run(page, script) == {
            "text": GREETING,
            "streamed": GREETING,
            "state": "open",
            "afterwards": "off",
            "gone": 404,
        }


async def test_speech_is_answered_and_options_change_in_mid_session(
    open_blank: OpenPage, worker: str, spoken: bytes
) -> None:
    script = """
    const voxtral = new Voxtral(location.origin, { config: { temperature: 0 } });
    await voxtral.open();
    const updated = new Promise((resolve) => voxtral.on("status", (m) => m.config && resolve(m)));
    voxtral.update({ mode: "transcribe" });
    const { config } = await updated;
    const answer = new Promise((resolve) => voxtral.on("text_response", resolve));
    const pcm = new Uint8Array(argument);
    for (let at = 0; at < pcm.length; at += 4096) voxtral.sendAudio(pcm.subarray(at, at + 4096));
    voxtral.endTurn();
    const { text, source } = await answer;
    await voxtral.close();
    return { text, source, mode: config.mode };
    """
    async with open_blank(worker) as page:
        found = await run(page, script, list(spoken))
    assert found == {"text": "Turn on the kitchen light.", "source": "audio", "mode": "transcribe"}


async def test_what_was_said_while_the_line_was_cut_is_answered_once_and_in_order(
    open_blank: OpenPage, worker: str
) -> None:
    line = CuttableLine(int(worker.rsplit(":", 1)[1]))
    url = await line.listen()
    async with open_blank(url) as page:
        await run(
            page,
            """
            window.voxtral = new Voxtral(location.origin, { config: { temperature: 0 } });
            window.told = [];
            voxtral.on("text_response", ({ request_id: id, text }) => told.push([id, text]));
            voxtral.on("state", ({ state }) => { window.state = state; });
            await voxtral.open();
            """,
        )
        line.cut()
        await page.wait_for_function("state !== 'open'")
        await page.evaluate("voxtral.sendText('hello', 'a'); voxtral.sendText('good night', 'b');")
        await page.wait_for_function("told.length === 2")
        await page.evaluate("voxtral.sendText('hello', 'c')")
        await page.wait_for_function("told.some(([id]) => id === 'c')")
        told = await page.evaluate("told")
        assert [id_ for id_, _ in told] == ["a", "b", "c"]
        assert told[1][1].startswith("Good night!")
        await page.evaluate("voxtral.close()")
    await line.close()


@pytest.mark.parametrize(
    ("config", "code"),
    [({"temperature": 9}, "INVALID_REQUEST"), ({"humour": 1}, "INVALID_REQUEST")],
)
async def test_a_refusal_for_good_rejects_with_the_workers_words(
    open_blank: OpenPage, worker: str, config: dict[str, Any], code: str
) -> None:
    script = """
    const voxtral = new Voxtral(location.origin, { config: argument });
    const states = [];
    voxtral.on("state", ({ state }) => states.push(state));
    const error = await voxtral.open().catch((error) => error);
    const { code, message } = error;
    return { isOurs: error instanceof VoxtralError, code, message, states };
    """
    async with open_blank(worker) as page:
        found = await run(page, script, config)
    assert found["isOurs"] and found["code"] == code
    assert next(iter(config)) in found["message"]
    assert found["states"] == ["connecting", "off"]


async def test_what_cannot_be_sent_is_an_error_that_says_so(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    const voxtral = new Voxtral(location.origin);
    const tried = (act) => { try { act(); return ""; } catch (error) { return error.message; } };
    voxtral.sendText("hello", "twice");
    const found = [
        tried(() => new Voxtral("ftp://somewhere")),
        tried(() => voxtral.sendAudio(new ArrayBuffer((1 << 20) + 2))),
        tried(() => voxtral.sendText("hello", "twice")),
        tried(() => voxtral.sendText("x".repeat(1 << 20))),
        tried(() => voxtral.sendText("hello", "i".repeat(257))),
        tried(() => new Speaker().play({ data: new ArrayBuffer(2) }, { encoding: "opus" })),
    ];
    await voxtral.close();
    return found;
    """
    async with open_blank(worker) as page:
        found = await run(page, script)
    wanted = [
        "must begin with http",
        "may have 1048576",
        "twice",
        "may have 1048576",
        "256",
        "opus",
    ]
    assert all(want in message for want, message in zip(wanted, found, strict=True)), found


async def test_a_listener_that_was_taken_off_hears_no_more(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    const voxtral = new Voxtral(location.origin);
    const heard = [];
    const off = voxtral.on("state", ({ state }) => { heard.push(state); off(); });
    await voxtral.open();
    await voxtral.close();
    return heard;
    """
    async with open_blank(worker) as page:
        assert await run(page, script) == ["connecting"]


async def test_an_option_that_changes_while_the_session_is_made_is_in_force(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    const voxtral = new Voxtral(location.origin, { config: { temperature: 0 } });
    const updated = new Promise((resolve) => voxtral.on("status", (m) => m.config && resolve(m)));
    const isOpen = voxtral.open();
    voxtral.update({ top_p: 0.5 });
    await isOpen;
    const { config } = await updated;
    await voxtral.close();
    return [config.temperature, config.top_p];
    """
    async with open_blank(worker) as page:
        assert await run(page, script) == [0, 0.5]


async def test_a_history_that_is_cleared_out_of_the_workers_reach_is_gone(
    open_blank: OpenPage, worker: str
) -> None:
    line = CuttableLine(int(worker.rsplit(":", 1)[1]))
    async with open_blank(await line.listen()) as page:
        await run(
            page,
            """
            window.voxtral = new Voxtral(location.origin);
            window.ids = [];
            voxtral.on("session", (session) => ids.push(session.session_id));
            voxtral.on("state", ({ state }) => {
                // The first time that it is lost.
                if (state === "waiting" && ids.length === 1) voxtral.clearHistory();
                window.state = state;
            });
            await voxtral.open();
            """,
        )
        line.cut()
        await page.wait_for_function("ids.length === 2 && state === 'open'")
        ids = await page.evaluate("ids")
        assert ids[0] != ids[1]
        await page.wait_for_function(
            "fetch(`/session/${ids[0]}`).then(({ status }) => status === 404)"
        )
        await page.evaluate("voxtral.close()")
    await line.close()


# What is held for a lost connection


JOURNAL = """
const { Journal } = await import("/client/journal.js");
const journal = new Journal();
const bytes = (count, fill) => new Uint8Array(count).fill(fill).buffer;
const shown = (entries) => entries.map(({ chunk, message }) =>
    message ? message.request_id ?? message.control_type ?? message.type
            : `${chunk.byteLength}×${new Uint8Array(chunk)[0]}`);
const text = (id) => ({ type: "text_input", text: "hello", request_id: id });
const control = (type) => ({ type: "control", control_type: type });
"""


async def test_what_the_worker_has_not_taken_is_sent_again_in_its_order(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    journal.addMessage(control("end_turn"));
    journal.addAudio(bytes(10, 1));
    journal.addMessage(text("a"));
    journal.addAudio(bytes(10, 2));
    journal.addMessage(control("cancel"));
    const first = shown(journal.takeUnsent());
    journal.addAudio(bytes(10, 3));
    // The first chunk was taken, and with it the control before it; of the second chunk 4 bytes.
    const lost = journal.rewind(14);
    const again = shown(journal.takeUnsent());
    journal.take({ type: "text_response", request_id: "a" });
    journal.take({ type: "status", status: "cancelled" });
    journal.rewind(30);
    return { first, lost, again, rest: shown(journal.takeUnsent()) };
    """
    async with open_blank(worker) as page:
        found = await run(page, JOURNAL + script)
    assert found == {
        "first": ["end_turn", "10×1", "a", "10×2", "cancel"],
        "lost": 0,
        "again": ["a", "6×2", "cancel", "10×3"],
        "rest": [],
    }


async def test_a_new_session_gets_what_no_other_one_was_sent(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    journal.addAudio(bytes(10, 1));
    journal.addMessage(text("sent"));
    journal.takeUnsent();
    journal.addAudio(bytes(10, 2));
    journal.addMessage(control("cancel"));
    journal.addMessage(text("waiting"));
    const lost = journal.giveUpTexts();
    journal.startOver();
    const first = shown(journal.takeUnsent());
    journal.rewind(4);
    return { lost, first, again: shown(journal.takeUnsent()) };
    """
    async with open_blank(worker) as page:
        found = await run(page, JOURNAL + script)
    assert found == {
        "lost": ["sent"],
        "first": ["10×2", "waiting"],
        "again": ["6×2", "waiting"],
    }


async def test_what_is_held_is_bounded_and_its_loss_is_told(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    const second = 32000;
    let lost = 0;
    for (let at = 0; at < 31; at += 1) lost += journal.addAudio(bytes(second, at));
    const first = shown(journal.takeUnsent())[0];
    const unheld = journal.rewind(0);
    for (let at = 0; at < 1024; at += 1) journal.addMessage(text(`t${at}`));
    let refused = "";
    try { journal.addMessage(text("more")); } catch (error) { refused = error.message; }
    return { lost, first, unheld, refused };
    """
    async with open_blank(worker) as page:
        found = await run(page, JOURNAL + script)
    refused = "1024 texts wait for the worker already"
    assert found == {"lost": 32_000, "first": "32000×1", "unheld": 0, "refused": refused}


async def test_audio_that_a_limit_dropped_is_not_sent_again(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    journal.addAudio(bytes(10, 1));
    journal.takeUnsent();
    journal.forgetAudio();
    journal.addAudio(bytes(10, 2));
    const lost = journal.rewind(0);
    return { lost, again: shown(journal.takeUnsent()) };
    """
    async with open_blank(worker) as page:
        assert await run(page, JOURNAL + script) == {"lost": 0, "again": ["10×2"]}


# Sound out


async def test_a_speaker_plays_piece_by_piece_and_knows_what_was_heard(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    const speaker = new Speaker();
    await speaker.start();
    const data = new Int16Array(2400).fill(1000).buffer;
    for (let at = 0; at < 3; at += 1) speaker.play({ turn_id: "7", data }, { sampleRate: 24000 });
    const begun = speaker.isPlaying;
    while (speaker.isPlaying) await new Promise((done) => setTimeout(done, 20));
    const heard = speaker.playedMs("7");
    speaker.play({ turn_id: "8", data: new Int16Array(24000 * 60).fill(1).buffer }, {});
    const [stopped] = speaker.stop();
    await speaker.close();
    const { turnId: id, playedMs: ms } = stopped;
    return { begun, heard: Math.round(heard), id, ms, now: speaker.isPlaying };
    """
    async with open_blank(worker) as page:
        found = await run(page, script)
    assert 0 <= found.pop("ms") < 60_000
    assert found == {"begun": True, "heard": 300, "id": "8", "now": False}


async def played(page: Page, script: str) -> tuple[PageSound, Any]:
    """What a page plays while a script uses a speaker, and what the script returns."""
    tone = """
    const tone = (from, count) => Int16Array.from(
      { length: count },
      (_, at) => 16000 * Math.sin((2 * Math.PI * 440 * (from + at)) / 24000),
    ).buffer;
    const until = async (isSo) => {
      while (!isSo()) await new Promise((done) => setTimeout(done, 20));
    };
    const speaker = new Speaker();
    await speaker.start();
    await until(() => window.heard.taps);
    """
    await page.add_init_script(LISTEN)
    await page.reload()
    found = await run(page, tone + script)
    return read_sound(await page.evaluate(TAKEN)), found


async def test_pieces_follow_each_other_without_a_click(open_blank: OpenPage, worker: str) -> None:
    script = """
    // The tone is at its loudest where pieces meet.
    for (let at = 0; at < 4; at += 1) {
      speaker.play({ turn_id: "7", data: tone(14 + 9600 * at, 9600) });
    }
    await until(() => !speaker.isPlaying);
    await until(() => window.heard.blocks.at(-1).frame > 1.7 * window.heard.rate);
    """
    async with open_blank(worker) as page:
        sound, _ = await played(page, script)
    assert np.sqrt(2 * np.mean(sound.samples[sound.samples != 0] ** 2)) > 0.4
    # A beginning that is late, or one sample played twice, differs by half of full scale.
    assert np.abs(sound.samples - sound.expected()).max() < 0.002


async def test_a_speaker_that_is_stopped_is_silent_within_50_ms_and_without_a_click(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    speaker.play({ turn_id: "7", data: tone(0, 24000 * 5) });
    await until(() => speaker.playedMs("7") > 200);
    const stoppedAt = window.soundClock();
    speaker.stop();
    await until(() => window.soundClock() > stoppedAt + 0.3);
    return stoppedAt;
    """
    async with open_blank(worker) as page:
        sound, stopped_s = await played(page, script)
    loud = np.flatnonzero(np.abs(sound.samples) > 1e-4)
    assert loud[-1] / sound.rate - stopped_s < 0.050 + 128 / sound.rate
    assert loud[-1] - loud[0] > 0.2 * sound.rate
    steepest = 2 * np.pi * 440 / sound.rate * 16_000 / 32_768
    # The fade itself goes down by 1/353 of the loudness a sample.
    assert np.abs(np.diff(sound.samples)).max() < 1.1 * steepest


# Types


async def test_the_types_declare_what_there_is(open_blank: OpenPage, worker: str) -> None:
    script = """
    const { Resampler } = await import("/client/voxtral.js");
    const classes = { Voxtral, Microphone, Speaker, Resampler };
    const names = ({ prototype }) =>
        Object.getOwnPropertyNames(prototype).filter((name) => name !== "constructor");
    return Object.fromEntries(Object.entries(classes).map(([name, made]) => [name, names(made)]));
    """
    async with open_blank(worker) as page:
        found = await run(page, script)
    for name, members in found.items():
        declared = names_in("class", name) - {"devices", "isPaused"}
        assert declared == set(members), name


# The worker's limits on what it is sent


async def test_a_page_that_is_refused_waits_as_long_as_the_worker_says(
    open_blank: OpenPage, worker: str
) -> None:
    script = """
    const voxtral = new Voxtral(location.origin);
    const states = [];
    voxtral.on("state", (event) => states.push(event));
    const at = Date.now();
    voxtral.open();
    while (states.at(-1)?.state !== "waiting") await new Promise((done) => setTimeout(done, 10));
    const { code, reason, retryAt } = states.at(-1);
    await voxtral.close();
    return { code, reason, seconds: (retryAt - at) / 1000, state: voxtral.state };
    """
    async with open_blank(worker) as page:
        body = {"error": "no place", "code": "AT_CAPACITY"}
        await page.route(
            "**/session/create",
            lambda route: route.fulfill(status=503, headers={"Retry-After": "20"}, json=body),
        )
        async with asyncio.timeout(WAIT_MS / 1000):
            found = await run(page, script)
    assert 20 <= found.pop("seconds") < 50
    assert found == {"code": "AT_CAPACITY", "reason": "no place", "state": "off"}
