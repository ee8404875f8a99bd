// The microphone, from permission to chunks of 16 kHz audio.

import { VoxtralError } from "./rest.js";

const STOP_WAIT_MS = 500;
const REASONS = {
  NotAllowedError: ["BLOCKED", "The microphone is blocked. Allow it for this page in the browser."],
  NotFoundError: ["NOT_FOUND", "No microphone was found."],
  OverconstrainedError: ["NOT_FOUND", "The chosen microphone is not there any more."],
  NotReadableError: ["IN_USE", "The microphone is in use by another program."],
};

export class Microphone {
  #onChunk;
  #onLevel;
  #onLost;
  #context = null;
  #stream;
  #node;
  #isStarting = false;
  #done;

  constructor({ onChunk, onLevel = () => {}, onLost = () => {} }) {
    this.#onChunk = onChunk;
    this.#onLevel = onLevel;
    this.#onLost = onLost;
    // While true, nothing is handed over.
    this.isPaused = false;
  }

  // The microphones of this machine; they have names once the page may use one.
  static async devices() {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all
      .filter(({ kind }) => kind === "audioinput")
      .map(({ deviceId, label }) => ({ deviceId, label }));
  }

  get isOn() {
    return this.#context !== null;
  }

  async start({ deviceId = "" } = {}) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new VoxtralError("The browser gives the microphone only to pages on https or localhost.", {
        code: "NOT_SECURE",
      });
    }
    if (this.isOn || this.#isStarting) return;
    this.#isStarting = true;
    try {
      await this.#open(await ask(deviceId));
    } finally {
      this.#isStarting = false;
    }
  }

  async #open(stream) {
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(new URL("./capture-worklet.js", import.meta.url));
      await context.resume();
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      await context.close();
      throw error;
    }
    this.#stream = stream;
    this.#context = context;
    this.isPaused = false;
    this.#node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 1 });
    this.#node.port.onmessage = ({ data }) => this.#hear(data);
    context.createMediaStreamSource(stream).connect(this.#node);
    // Some browsers run only what leads to the loudspeaker; the node puts out silence.
    this.#node.connect(context.destination);
    stream.getAudioTracks()[0].onended = () => this.#onLost();
  }

  // Resolves when the last chunk has been handed over.
  async stop() {
    const context = this.#context;
    if (!context) return;
    this.#context = null;
    const [node, stream] = [this.#node, this.#stream];
    const isDone = new Promise((resolve) => {
      this.#done = resolve;
      setTimeout(resolve, STOP_WAIT_MS);
    });
    node.port.postMessage("stop");
    await isDone;
    node.port.onmessage = null;
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  }

  #hear({ pcm, level, isDone }) {
    if (pcm && !this.isPaused) this.#onChunk(pcm);
    if (level !== undefined) this.#onLevel(this.isPaused ? 0 : level);
    if (isDone) this.#done?.();
  }
}

async function ask(deviceId) {
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: {
        channelCount: 1,
        echoCancellation: true,
        noiseSuppression: true,
        autoGainControl: true,
        ...(deviceId ? { deviceId: { exact: deviceId } } : {}),
      },
    });
  } catch (error) {
    const [code, message] = REASONS[error.name] ?? [
      error.name,
      `The microphone cannot be opened: ${error.message}`,
    ];
    throw new VoxtralError(message, { code });
  }
}
