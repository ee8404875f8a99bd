"""What the console plays: a conversation with a real worker in a real browser, recorded.

    python -m bench console_sound

The microphone is a file of spoken sentences; the sound is taken at the page's way out to the
loudspeaker, before any device.
"""

import asyncio
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from playwright.async_api import Page, async_playwright

from tests.support.chromium import ARGUMENTS, CHROMIUM
from tests.support.page_sound import LISTEN, TAKEN, PageSound, read_sound
from tests.support.sounds import FRAME_SAMPLES, RATE, clips, silence
from tests.support.workers import running_worker

# Each answer is heard to its end before the next sentence.
WHOLE = (
    "turn on the kitchen light",
    "what is the weather tomorrow",
    "set a timer for five minutes",
    "call three one four",
)
# Each of these is said while the answer to the one before is heard.
INTERRUPTING = ("turn off the living room fan", "set a timer for five minutes") * 3
HEARD_OUT_S = 6.0
# Later than a turn may still be reopened, and sooner than its answer was heard.
INTERRUPTS_AFTER_S = 1.7
LEAD_S = 1.5
TIMEOUT_S = 60.0
# What is quieter is not heard: 80 dB below full scale.
SILENT = 1e-4
# Samples on each side of where pieces meet.
NEAR = 4


def write_microphone(path: Path, whole: tuple[str, ...], interrupting: tuple[str, ...]) -> float:
    """Write what the microphone hears; returns its length in s."""
    spoken = clips()
    parts = [_quiet(LEAD_S)]
    for words in whole:
        parts += [spoken[words], _quiet(HEARD_OUT_S)]
    for words in interrupting:
        parts += [_trimmed(spoken[words]), _quiet(INTERRUPTS_AFTER_S)]
    data = b"".join([*parts, _quiet(HEARD_OUT_S)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(data)
    return len(data) / 2 / RATE


def _quiet(seconds: float) -> bytes:
    return silence(round(seconds * RATE / FRAME_SAMPLES))


def _trimmed(data: bytes) -> bytes:
    """A sentence without the quiet behind it, so that what follows comes when it should."""
    samples = np.frombuffer(data, "<i2")
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 1000)
    return samples[: loud[-1] + 1].tobytes()


async def record(
    url: str, whole: tuple[str, ...] = WHOLE, interrupting: tuple[str, ...] = ()
) -> PageSound:
    """Talk with a worker through its console, and record what the page plays."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "microphone.wav")
        length_s = write_microphone(path, whole, interrupting)
        kept = [one for one in ARGUMENTS if "use-file-for-fake-audio-capture" not in one]
        arguments = [*kept, f"--use-file-for-fake-audio-capture={path}%noloop"]
        async with async_playwright() as play:
            browser = await play.chromium.launch(executable_path=CHROMIUM, args=arguments)
            # The console allows no script of others, and what listens is one.
            page = await browser.new_page(permissions=["microphone"], bypass_csp=True)
            await page.add_init_script(LISTEN)
            await page.goto(url)
            await page.get_by_label("Voice").select_option("default")
            await page.get_by_role("button", name="Talk", exact=True).click()
            await asyncio.sleep(length_s)
            await _heard_out(page, len(whole) + len(interrupting))
            sound = read_sound(await page.evaluate(TAKEN))
            await browser.close()
    return sound


async def _heard_out(page: Page, turns: int) -> None:
    """Wait until so many turns have ended and the page has nothing to play."""
    ended = f"window.heard.messages.filter((m) => m.type === 'text_response').length >= {turns}"
    await page.wait_for_function(ended, timeout=1000 * TIMEOUT_S)
    over = "document.body.dataset.floor === 'listening'"
    await page.wait_for_function(over, timeout=1000 * TIMEOUT_S)


def answers(sound: PageSound) -> list[str]:
    """The responses in words."""
    return [m["text"] for m in sound.messages if m["type"] == "text_response"]


@dataclass
class Cut:
    """An answer that was cut: how long it was heard after `interrupted`, and how it ended.

    `step` is that from the last sample that can be heard to silence.
    """

    after_ms: float
    step: float


@dataclass
class Measured:
    """The sound of a page in figures; a jump is the difference of two samples on end."""

    speech_s: float
    rms_db: float
    peak_db: float
    clipped: int
    # Between pieces of one sentence; less than nothing: they overlap.
    gaps_ms: list[float]
    # The largest within 0.1 ms of where two pieces meet, and the usual largest elsewhere.
    joint_jumps: list[float]
    inner_jump: float
    # The largest difference from what the worker sent, where no answer was cut.
    wrong: float
    cuts: list[Cut]


def measure(sound: PageSound) -> Measured:
    """The figures of a recording."""
    samples, rate = sound.samples, sound.rate
    told = [m for m in sound.messages if m["type"] == "audio"]
    played = list(zip(sound.pieces, told, strict=True))
    jumps = np.abs(np.diff(samples, append=np.float32(0)))
    wrong = np.abs(samples - sound.expected())
    is_inner = np.abs(samples) > SILENT
    gaps_ms, at_joints, cuts = [], [], []
    for (before, one), (after, other) in zip(played, played[1:], strict=False):
        if one["turn_id"] == other["turn_id"] and not other["text"]:
            gaps_ms.append(1000 * (after.begin_s - before.end_s))
            joint = round(after.begin_s * rate)
            at_joints.append(slice(joint - NEAR, joint + NEAR))
    for message in sound.messages:
        own = [n for n, one in enumerate(told) if one["turn_id"] == message.get("turn_id")]
        is_cut = message.get("status") == "interrupted" and own
        if not is_cut or (end_s := sound.pieces[own[-1]].end_s) <= message["at"]:
            continue
        begin = round(message["at"] * rate)
        later = sound.pieces[own[-1] + 1 :]
        end = round(later[0].begin_s * rate) if later else len(samples)
        # A hard cut is at the very sample before the page's clock.
        loud = np.flatnonzero(np.abs(samples[begin - NEAR : end]) > SILENT)
        last = begin - NEAR + int(loud[-1]) if len(loud) else begin
        cuts.append(Cut(max(0.0, 1000 * (last - begin) / rate), float(jumps[last])))
        # What would have been heard without the cut does not count.
        wrong[begin : round(end_s * rate) + 1] = 0
        is_inner[last - NEAR : last + NEAR] = False
    for near in at_joints:
        is_inner[near] = False
    heard = samples[np.abs(samples) > SILENT]
    return Measured(
        speech_s=len(heard) / rate,
        rms_db=_db(float(np.sqrt(np.mean(heard**2)))),
        peak_db=_db(float(np.abs(samples).max())),
        clipped=int((np.abs(samples) >= 1.0).sum()),
        gaps_ms=gaps_ms,
        joint_jumps=[float(jumps[near].max(initial=0.0)) for near in at_joints],
        inner_jump=float(np.quantile(jumps[is_inner], 0.999)),
        wrong=float(wrong.max()),
        cuts=cuts,
    )


def _db(value: float) -> float:
    return float(20 * np.log10(max(value, 1e-9)))


def run() -> None:
    """Print the table."""
    with running_worker(SPEECH="embedded", RESPONSE_CACHE_SIZE="0") as url:
        recorded = [asyncio.run(record(url)), asyncio.run(record(url, (), INTERRUPTING))]
    sides = [measure(sound) for sound in recorded]
    rows: dict[str, list[str]] = {
        "turns, answers": [f"{len(answers(sound))}" for sound in recorded],
        "answers cut while they were heard": [f"{len(side.cuts)}" for side in sides],
        "sound, s": [f"{side.speech_s:.1f}" for side in sides],
        "loudness (RMS), peak, dBFS": [f"{s.rms_db:.1f}, {s.peak_db:.1f}" for s in sides],
        "samples at full scale": [f"{side.clipped}" for side in sides],
        "pieces that follow one in a sentence": [f"{len(side.gaps_ms)}" for side in sides],
        "gap before them, ms": [f"{_span(side.gaps_ms, 3)}" for side in sides],
        "largest jump where pieces meet": [f"{max(side.joint_jumps):.3f}" for side in sides],
        "jump elsewhere, 99.9th percentile": [f"{side.inner_jump:.3f}" for side in sides],
        "largest difference from the sound sent": [f"{side.wrong:.5f}" for side in sides],
        "`interrupted` → silence, ms": [_span([c.after_ms for c in s.cuts], 0) for s in sides],
        "step to silence at a cut": [_span([c.step for c in s.cuts], 4) for s in sides],
    }
    print(f"\n| the page's sound, at {recorded[0].rate} Hz | heard out | cut |\n|---|---|---|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    for text in (text for sound in recorded for text in answers(sound)):
        print(f"- {text}")


def _span(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    low, high = (f"{round(each, digits) + 0.0:.{digits}f}" for each in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
