// Runs on the audio thread: microphone blocks in, 16 kHz PCM16 chunks and levels out.

import { Resampler, toPcm16 } from "./resampler.js";

const LEVEL_SAMPLES = 512; // 32 ms: one bar of the waveform
const CHUNK_SAMPLES = 2048; // 128 ms: one message to the worker

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate);
    this.chunk = new Float32Array(CHUNK_SAMPLES);
    this.filled = 0;
    this.isStopped = false;
    this.port.onmessage = () => this.#stop();
  }

  process([channels]) {
    if (channels?.length) this.#take(this.resampler.push(channels[0]));
    return !this.isStopped;
  }

  #take(samples) {
    for (const sample of samples) {
      this.chunk[this.filled] = sample;
      this.filled += 1;
      if (this.filled % LEVEL_SAMPLES === 0) this.#tellLevel();
      if (this.filled === CHUNK_SAMPLES) this.#tellChunk();
    }
  }

  #tellLevel() {
    let sum = 0;
    for (let i = this.filled - LEVEL_SAMPLES; i < this.filled; i += 1) sum += this.chunk[i] ** 2;
    this.port.postMessage({ level: Math.sqrt(sum / LEVEL_SAMPLES) });
  }

  #tellChunk() {
    const pcm = toPcm16(this.chunk.subarray(0, this.filled));
    this.filled = 0;
    this.port.postMessage({ pcm: pcm.buffer }, [pcm.buffer]);
  }

  #stop() {
    if (this.filled) this.#tellChunk();
    this.isStopped = true;
    this.port.postMessage({ isDone: true });
  }
}

registerProcessor("capture", Capture);
