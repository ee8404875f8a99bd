// Bundled clips for those without a microphone: heard here, sent to the worker as speech.

import { TARGET_RATE, toPcm16 } from "./resampler.js";

const FOLDER = "/console/clips/";
const LEVEL_SAMPLES = 512; // 32 ms: one bar of the waveform
// More than the pause that ends a turn, so that a clip is a turn of its own.
const SILENCE_SAMPLES = TARGET_RATE;

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

  // File name → words; empty where the worker has none.
  async list() {
    const response = await fetch(`${FOLDER}index.json`);
    return response.ok ? response.json() : {};
  }

  async play(name) {
    this.stop();
    const context = new AudioContext({ sampleRate: TARGET_RATE });
    this.context = context;
    try {
      const data = await (await fetch(FOLDER + name)).arrayBuffer();
      const clip = await context.decodeAudioData(data);
      // Whoever pressed Stop, or Play again, meanwhile has closed this one.
      if (this.context === context) this.#speak(clip);
    } catch (error) {
      if (this.context === context) this.stop();
      throw error;
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
    samples.set(clip.getChannelData(0));
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
