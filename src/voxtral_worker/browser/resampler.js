// Brings samples of any rate to 16 kHz, block by block.
//
// A polyphase low-pass: the two rates are reduced to a fraction up/down, and each of the
// `up` phases has its own short windowed-sinc filter. What is above the new Nyquist
// frequency is taken out before it could fold back into speech.

export const TARGET_RATE = 16000;
// Zero crossings of the sinc on each side: 16 keep the transition band under 10 %.
const CROSSINGS = 16;

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

export class Resampler {
  constructor(inputRate, outputRate = TARGET_RATE) {
    const divisor = greatestCommonDivisor(inputRate, outputRate);
    this.up = outputRate / divisor;
    this.down = inputRate / divisor;
    const cutoff = 0.94 * Math.min(1, outputRate / inputRate);
    this.half = Math.ceil(CROSSINGS / Math.min(1, outputRate / inputRate));
    this.filters = Array.from({ length: this.up }, (_, phase) => this.#filter(phase, cutoff));
    // Silence before the first sample, so that the first filter is centred on it.
    this.held = new Float32Array(this.half - 1);
    this.phase = 0;
  }

  #filter(phase, cutoff) {
    const taps = new Float32Array(2 * this.half);
    let sum = 0;
    for (let i = 0; i < taps.length; i += 1) {
      const x = i - this.half + 1 - phase / this.up;
      const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / (this.half + 1));
      const angle = Math.PI * cutoff * x;
      taps[i] = (x === 0 ? 1 : Math.sin(angle) / angle) * window;
      sum += taps[i];
    }
    return taps.map((tap) => tap / sum);
  }

  // Float32Array in, Float32Array out; what is left over waits for the next block.
  push(block) {
    const input = new Float32Array(this.held.length + block.length);
    input.set(this.held);
    input.set(block, this.held.length);
    const length = 2 * this.half;
    const output = [];
    let start = 0;
    while (start + length <= input.length) {
      const taps = this.filters[this.phase];
      let sum = 0;
      for (let i = 0; i < length; i += 1) sum += taps[i] * input[start + i];
      output.push(sum);
      this.phase += this.down;
      start += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    // A step is shorter than the filter, so `start` never passes the end.
    this.held = input.slice(start);
    return Float32Array.from(output);
  }
}

export function toPcm16(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i += 1) {
    pcm[i] = Math.round(Math.max(-1, Math.min(1, samples[i])) * 32767);
  }
  return pcm;
}
