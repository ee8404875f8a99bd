// Plays spoken answers piece by piece, and knows how much of each turn was heard.

import { VoxtralError } from "./rest.js";

// A page reads the audio clock up to one buffer late. What is asked for sooner would begin too late:
// the first piece would sound into the second, and a fade would be a click.
const LEAST_LEAD_S = 0.02;
const FADE_S = 0.008;

export class Speaker {
  #context = null;
  #out = null; // what is being played goes through it
  #endsAt = 0; // on the context's clock: when all that was given is over
  #pieces = []; // { source, turnId, startsAt, endsAt }; of the turn being heard only
  #onEnd;

  constructor({ onEnd = () => {} } = {}) {
    this.#onEnd = onEnd;
  }

  get isPlaying() {
    return this.#context !== null && this.#endsAt > this.#context.currentTime;
  }

  // Browsers let a page make sound only after a click: call it in the click's handler.
  async start() {
    this.#context ??= new AudioContext();
    await this.#context.resume();
  }

  play({ turn_id: turnId, data }, { sampleRate = 24000, encoding = "pcm_s16le" } = {}) {
    if (encoding !== "pcm_s16le") {
      throw new VoxtralError(`output_encoding is ${encoding}, but a Speaker plays pcm_s16le`);
    }
    this.#context ??= new AudioContext();
    const samples = new Int16Array(data, 0, data.byteLength >> 1);
    if (!samples.length) return;
    const buffer = this.#context.createBuffer(1, samples.length, sampleRate);
    buffer.copyToChannel(
      Float32Array.from(samples, (sample) => sample / 32768),
      0,
    );
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    if (!this.#out) {
      this.#out = new GainNode(this.#context);
      this.#out.connect(this.#context.destination);
    }
    source.connect(this.#out);
    const startsAt = this.#onFrame(Math.max(this.#soonest, this.#endsAt));
    source.onended = () => {
      if (!this.isPlaying) this.#onEnd();
    };
    source.start(startsAt);
    this.#endsAt = this.#onFrame(startsAt + buffer.duration);
    // Where the rates differ, browsers may play one frame more, on top of the next piece's first.
    source.stop(this.#endsAt);
    this.#pieces = this.#pieces.filter((piece) => piece.turnId === turnId || piece.endsAt > startsAt);
    this.#pieces.push({ source, turnId, startsAt, endsAt: this.#endsAt });
  }

  // How much of a turn has been heard so far, in ms.
  playedMs(turnId) {
    const now = this.#context?.currentTime ?? 0;
    return this.#pieces
      .filter((piece) => piece.turnId === turnId)
      .reduce((sum, { startsAt, endsAt }) => sum + 1000 * Math.max(0, Math.min(now, endsAt) - startsAt), 0);
  }

  get #soonest() {
    const { currentTime, baseLatency = 0 } = this.#context;
    return currentTime + Math.max(LEAST_LEAD_S, 2 * baseLatency);
  }

  #onFrame(seconds) {
    const { sampleRate } = this.#context;
    return Math.round(seconds * sampleRate) / sampleRate;
  }

  // Be silent, after a fade of 8 ms; returns how much of each turn was heard.
  stop() {
    const turnIds = [...new Set(this.#pieces.map(({ turnId }) => turnId))];
    const heard = turnIds.map((turnId) => ({ turnId, playedMs: this.playedMs(turnId) }));
    if (this.#out) {
      const fadesAt = this.#soonest;
      this.#out.gain.setValueAtTime(1, fadesAt).linearRampToValueAtTime(0, fadesAt + FADE_S);
      for (const { source } of this.#pieces) source.stop(fadesAt + FADE_S);
      this.#out = null; // what is played next does not fade
    }
    this.#pieces = [];
    this.#endsAt = 0;
    return heard;
  }

  async close() {
    this.stop();
    await this.#context?.close();
    this.#context = null;
  }
}
