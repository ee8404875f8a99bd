"""What the console plays of a conversation: levels, clicks, gaps.

    python -m bench console_sound

A worker of its own with the embedded model and voice; headless Chromium, whose microphone is an
embedded clip. All that the page sends to its loudspeaker is recorded on the audio thread.
"""

import asyncio
import base64
import shutil

import numpy as np
from playwright.async_api import Page, async_playwright

from tests.support.workers import running_worker
from voxtral_worker.settings import EMBEDDED_MODEL
from voxtral_worker.speech.voice import Samples

CLIP = EMBEDDED_MODEL / "clips" / "turn-on-the-kitchen-light.wav"
ASKED = ("hello", "how are you", "what time is it")
ARGUMENTS = [
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    f"--use-file-for-fake-audio-capture={CLIP}%noloop",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
]
WAIT_MS = 60_000
# Quieter than this is silence; a voice that pauses within its sentence is quieter for longer than
# a gap between two pieces would be.
SILENCE = 0.0005
# Stands before the loudspeaker, and keeps what comes by.
TAP = """
const bounds = [];
window.recorded = { parts: [], rate: 0, bounds };
const own = Object.getOwnPropertyDescriptor(BaseAudioContext.prototype, "destination").get;
const taps = new WeakMap();
const worklet = URL.createObjectURL(new Blob([`
registerProcessor("tap", class extends AudioWorkletProcessor {
  process([input]) {
    const samples = input[0] ? input[0].slice() : new Float32Array(128);
    this.port.postMessage({ at: currentFrame, samples });
    return true;
  }
})`], { type: "text/javascript" }));
Object.defineProperty(BaseAudioContext.prototype, "destination", { get() {
  if (this instanceof OfflineAudioContext) return own.call(this);
  let tap = taps.get(this);
  if (!tap) {
    tap = new GainNode(this);
    tap.connect(own.call(this));
    window.recorded.rate = this.sampleRate;
    this.audioWorklet.addModule(worklet).then(() => {
      const node = new AudioWorkletNode(this, "tap");
      node.port.onmessage = ({ data }) => window.recorded.parts.push(data);
      tap.connect(node).connect(own.call(this));
    });
    taps.set(this, tap);
  }
  return tap;
} });
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when = 0, ...rest) {
  bounds.push({ at: when, duration: this.buffer.duration, rate: this.buffer.sampleRate });
  return start.call(this, when, ...rest);
};
"""
READ = """() => {
  const { parts, rate, bounds } = window.recorded;
  const first = parts[0].at, all = new Float32Array(parts.at(-1).at - first + 128);
  for (const { at, samples } of parts) all.set(samples, at - first);
  const bytes = new Uint8Array(all.buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192)
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return { rate, first, bounds, blocks: parts.length, data: btoa(text) };
}"""


def run() -> None:
    """Print the table."""
    if (chromium := shutil.which("chromium")) is None:
        print("console_sound: skipped, it needs chromium: apt-get install chromium")
        return
    with running_worker(SPEECH="embedded", RESPONSE_CACHE_SIZE="0") as url:
        asyncio.run(_measure(url, chromium))


async def _measure(url: str, chromium: str) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        context = await browser.new_context(permissions=["microphone"])
        page = await context.new_page()
        page.set_default_timeout(WAIT_MS)
        await page.add_init_script(TAP)
        await page.goto(f"{url}/#voice=default&temperature=0")
        await _converse(page)
        read = await page.evaluate(READ)
        await browser.close()
    samples = np.frombuffer(base64.b64decode(read["data"]), np.float32)
    report(samples, read["rate"], read["first"], read["bounds"])


async def _converse(page: Page) -> None:
    """One turn that is spoken into the microphone, the others typed."""
    await page.get_by_role("button", name="Talk").first.click()
    await _heard(page, 1)
    for number, text in enumerate(ASKED):
        await page.get_by_label("Text to send").fill(text)
        await page.get_by_role("button", name="Send").click()
        await _heard(page, number + 2)


async def _heard(page: Page, answers: int) -> None:
    """Wait until so many answers were played to their end."""
    # The pieces of one answer follow each other; between two answers somebody waits.
    await page.wait_for_function(
        "answers => { const { bounds } = window.recorded; let count = 0, end = -1;"
        " for (const { at, duration } of bounds) { count += at > end + 0.3; end = at + duration; }"
        " return count >= answers }",
        arg=answers,
    )
    await page.wait_for_timeout(4000)


def report(samples: Samples, rate: float, first: int, bounds: list[dict[str, float]]) -> None:
    """Print levels, and what is heard where two pieces meet."""
    steps = np.abs(np.diff(samples))
    loud = np.abs(samples) > SILENCE
    joints, gaps, elsewhere = [], [], np.ones(len(steps), bool)
    for before, after in zip(bounds, bounds[1:], strict=False):
        gap_s = after["at"] - before["at"] - before["duration"]
        if gap_s > 0.3:
            continue
        gaps.append(1000 * gap_s)
        at = round(after["at"] * rate) - first
        near = slice(max(0, at - 8), at + 8)
        joints.append(float(steps[near].max(initial=0.0)))
        elsewhere[near] = False
    spoken = samples[loud]
    print("\n| the console's sound | |\n|---|---|")
    for name, value in (
        ("answers, pieces", f"{len(bounds) - len(gaps)}, {len(bounds)}"),
        ("rate of the page's loudspeaker, Hz", f"{rate:.0f}"),
        ("peak, dBFS", f"{_db(float(np.abs(samples).max())):.1f}"),
        ("loudness (RMS) while it speaks, dBFS", f"{_db(float(np.sqrt((spoken**2).mean()))):.1f}"),
        ("samples at full scale", str(int((np.abs(samples) >= 0.9999).sum()))),
        ("largest step of a sample where two pieces meet", f"{max(joints, default=0.0):.4f}"),
        ("largest step anywhere else", f"{steps[elsewhere].max():.4f}"),
        ("gap between two pieces of an answer, ms", f"{max(gaps, default=0.0):.2f} at most"),
    ):
        print(f"| {name} | {value} |")


def _db(value: float) -> float:
    return float(20 * np.log10(max(value, 1e-9)))
