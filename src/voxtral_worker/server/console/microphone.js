// The microphone, from permission to chunks.

const STOP_WAIT_MS = 500;

export class Microphone {
  constructor({ onChunk, onLevel, onLost }) {
    this.onChunk = onChunk;
    this.onLevel = onLevel;
    this.onLost = onLost;
    this.context = null;
  }

  get isOn() {
    return this.context !== null;
  }

  // Rejects with an Error whose message is for the person.
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("The browser gives the microphone only to pages on https or localhost.");
    }
    const stream = await this.#ask();
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(new URL("./capture-worklet.js", import.meta.url));
      await context.resume();
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      await context.close();
      throw error;
    }
    this.stream = stream;
    this.context = context;
    this.node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 1 });
    this.node.port.onmessage = ({ data }) => this.#hear(data);
    context.createMediaStreamSource(stream).connect(this.node);
    // Some browsers run only what leads to the loudspeaker; the node puts out silence.
    this.node.connect(context.destination);
    stream.getAudioTracks()[0].onended = () => this.onLost();
  }

  // Resolves when the last chunk has been handed over.
  async stop() {
    const { context, node, stream } = this;
    if (!context) return;
    this.context = null;
    const isDone = new Promise((resolve) => {
      this.done = resolve;
      setTimeout(resolve, STOP_WAIT_MS);
    });
    node.port.postMessage("stop");
    await isDone;
    node.port.onmessage = null;
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  }

  async #ask() {
    try {
      return await navigator.mediaDevices.getUserMedia({
        audio: {
          channelCount: 1,
          echoCancellation: true,
          noiseSuppression: true,
          autoGainControl: true,
        },
      });
    } catch (error) {
      const reasons = {
        NotAllowedError: "The microphone is blocked. Allow it for this page in the browser.",
        NotFoundError: "No microphone was found.",
        NotReadableError: "The microphone is in use by another program.",
      };
      throw new Error(reasons[error.name] ?? `The microphone cannot be opened: ${error.message}`);
    }
  }

  #hear(data) {
    if (data.pcm) this.onChunk(data.pcm);
    if (data.level !== undefined) this.onLevel(data.level);
    if (data.isDone) this.done?.();
  }
}
