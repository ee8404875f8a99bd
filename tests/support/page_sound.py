"""The sound that a page plays, taken on its way to the loudspeaker before any device."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A script for the beginning of a page. Its clock is that of the context that plays pieces.
LISTEN = """
(() => {
  window.base64 = ({ buffer }) => {
    const bytes = new Uint8Array(buffer);
    let text = "";
    for (let at = 0; at < bytes.length; at += 32768) {
      text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    }
    return btoa(text);
  };
  const connect = AudioNode.prototype.connect;
  const log = { taps: 0, rate: 0, starts: [], messages: [], blocks: [] };
  window.heard = log;
  let speaker = null;
  window.soundClock = () => speaker.currentTime;
  const processor = URL.createObjectURL(new Blob([`
    registerProcessor("tap", class extends AudioWorkletProcessor {
      process([[samples]]) {
        if (samples) this.port.postMessage({ frame: currentFrame, samples: samples.slice() });
        return true;
      }
    });`], { type: "text/javascript" }));
  window.AudioContext = class extends AudioContext {
    constructor(...options) {
      super(...options);
      this.bus = new GainNode(this);
      this.audioWorklet.addModule(processor).then(() => {
        const mono = { channelCount: 1, channelCountMode: "explicit" };
        const tap = new AudioWorkletNode(this, "tap", mono);
        tap.port.onmessage = ({ data }) => this === speaker && log.blocks.push(data);
        connect.call(this.bus, tap);
        connect.call(tap, this.destination);
        this.tap = tap;
        log.taps += 1;
      });
    }
  };
  AudioNode.prototype.connect = function (to, ...rest) {
    // The microphone's node puts out nothing.
    if (to === this.context.destination && !(this instanceof AudioWorkletNode)) {
      connect.call(this, this.context.bus);
    }
    return connect.call(this, to, ...rest);
  };
  const start = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function (when) {
    speaker = this.context;
    log.rate = speaker.sampleRate;
    if (!log.starts.length) log.hasTap = Boolean(speaker.tap);
    start.call(this, when);
    const pcm = Int16Array.from(this.buffer.getChannelData(0), (sample) => 32768 * sample);
    log.starts.push({ when, sampleRate: this.buffer.sampleRate, pcm });
  };
  window.WebSocket = class extends WebSocket {
    constructor(...options) {
      super(...options);
      this.addEventListener("message", ({ data }) => {
        if (typeof data !== "string") return;
        log.messages.push({ at: speaker?.currentTime ?? 0, ...JSON.parse(data) });
      });
    }
  };
})();
"""
TAKEN = """
() => {
  const { blocks, starts, ...rest } = window.heard;
  const last = blocks.at(-1);
  const samples = new Float32Array(last ? last.frame + last.samples.length : 0);
  for (const block of blocks) samples.set(block.samples, block.frame);
  const encoded = starts.map((start) => ({ ...start, pcm: base64(start.pcm) }));
  return { ...rest, starts: encoded, sound: base64(samples) };
}
"""
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """A buffer that the page gave to the loudspeaker, and when it should begin, in s."""

    begin_s: float
    rate: int
    samples: Samples

    @property
    def end_s(self) -> float:
        """When it should end."""
        return self.begin_s + len(self.samples) / self.rate


@dataclass(frozen=True)
class PageSound:
    """What a page played, float32 [n] from the beginning of its clock, and what it got.

    `messages` are those of its WebSockets, each with the time `at` which it came, in s.
    """

    samples: Samples
    rate: int
    pieces: list[Piece]
    messages: list[dict[str, Any]]

    def expected(self) -> Samples:
        """The pieces at the page's rate, as Chromium resamples: on lines through two samples."""
        made = np.zeros_like(self.samples)
        for piece in self.pieces:
            begin = round(piece.begin_s * self.rate)
            end = min(len(made), round(piece.end_s * self.rate))
            at = (np.arange(begin, end) / self.rate - piece.begin_s) * piece.rate
            # Behind the last sample the last line continues.
            left = np.minimum(np.floor(at), len(piece.samples) - 2).astype(int)
            step = piece.samples[left + 1] - piece.samples[left]
            made[begin:end] += piece.samples[left] + (at - left) * step
        return made


def read_sound(taken: dict[str, Any]) -> PageSound:
    """What the script `TAKEN` has returned. Raises ValueError if a part was not heard."""
    if not taken["hasTap"]:
        raise ValueError("the page played before it was listened to")
    pieces = [Piece(one["when"], one["sampleRate"], _pcm(one["pcm"])) for one in taken["starts"]]
    sound = _decoded(taken["sound"], "<f4")
    return PageSound(sound, round(taken["rate"]), pieces, taken["messages"])


def _decoded(data: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(data), dtype)


def _pcm(data: str) -> Samples:
    samples: Samples = _decoded(data, "<i2").astype(np.float32) / np.float32(32_768)
    return samples
