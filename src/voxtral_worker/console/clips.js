// A recording that speaks in the person's place: heard here, sent to the worker as live speech.

import { toPcm16 } from "/client/voxtral.js";

const TARGET_RATE = 16000;
const LEVEL_SAMPLES = 512; // 32 ms: one bar of the waveform
// More than the pause that ends a turn, so that a clip is a turn of its own.
const SILENCE_SAMPLES = TARGET_RATE;
const MOST_SECONDS = 30 * 60;

export class ClipPlayer {
  constructor({ onChunk, onLevel, onEnd }) {
    this.onChunk = onChunk;
    this.onLevel = onLevel;
    this.onEnd = onEnd;
    this.context = null;
  }

  get isOn() {
    return this.context !== null;
  }

  /** Decode what `read` gives and play it. Rejects with an Error for the person. */
  async play(read) {
    this.stop();
    const context = new AudioContext({ sampleRate: TARGET_RATE });
    this.context = context;
    try {
      const clip = await context.decodeAudioData(await read());
      if (clip.duration > MOST_SECONDS) throw new Error("it is longer than half an hour");
      // Whoever pressed Stop, or Play again, meanwhile has closed this one.
      if (this.context === context) this.#speak(clip);
    } catch (error) {
      if (this.context !== context) return;
      this.stop();
      throw error.name === "EncodingError" ? new Error("the browser cannot read this format") : error;
    }
  }

  stop() {
    clearInterval(this.timer);
    this.context?.close();
    this.context = null;
  }

  #speak(clip) {
    const source = new AudioBufferSourceNode(this.context, { buffer: clip });
    source.connect(this.context.destination);
    source.start();
    const samples = new Float32Array(clip.length + SILENCE_SAMPLES);
    for (let channel = 0; channel < clip.numberOfChannels; channel += 1) {
      clip.getChannelData(channel).forEach((sample, at) => {
        samples[at] += sample / clip.numberOfChannels;
      });
    }
    const started = performance.now();
    let sent = 0;
    this.timer = setInterval(() => {
      // By the clock, as a page in the background is seldom called.
      const due = ((performance.now() - started) / 1000) * TARGET_RATE;
      for (; sent < Math.min(due, samples.length); sent += LEVEL_SAMPLES) {
        this.#send(samples.subarray(sent, sent + LEVEL_SAMPLES));
      }
      if (sent >= samples.length) {
        this.stop();
        this.onEnd();
      }
    }, (1000 * LEVEL_SAMPLES) / TARGET_RATE);
  }

  #send(samples) {
    this.onLevel(Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length));
    this.onChunk(toPcm16(samples).buffer);
  }
}
