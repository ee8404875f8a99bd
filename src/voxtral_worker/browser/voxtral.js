// The JavaScript client of a Voxtral worker. Its types and the meaning of each method are in
// voxtral.d.ts, a guide is docs/javascript-client.md.

import { Connection } from "./connection.js";
import { Rest, VoxtralError } from "./rest.js";

export { Microphone } from "./microphone.js";
export { Resampler, toPcm16 } from "./resampler.js";
export { Speaker } from "./speaker.js";
export { VoxtralError };

// The largest frame of audio that the worker takes.
const MOST_CHUNK_BYTES = 1 << 20;
const MOST_ID_CHARACTERS = 256;

export class Voxtral {
  #rest;
  #connection;
  #listeners = new Map();

  constructor(url, { token = "", config = {} } = {}) {
    this.#rest = new Rest(url, token);
    this.#connection = new Connection(this.#rest, { ...config }, (type, event) => this.#emit(type, event));
  }

  get sessionId() {
    return this.#connection.sessionId;
  }

  get state() {
    return this.#connection.state;
  }

  get config() {
    return { ...this.#connection.config };
  }

  set token(token) {
    this.#rest.token = token;
  }

  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  open() {
    return this.#connection.open();
  }

  close() {
    return this.#connection.close();
  }

  sendAudio(chunk) {
    const bytes = ArrayBuffer.isView(chunk)
      ? chunk.buffer.slice(chunk.byteOffset, chunk.byteOffset + chunk.byteLength)
      : chunk;
    if (bytes.byteLength > MOST_CHUNK_BYTES) {
      throw new VoxtralError(
        `a chunk of audio has ${bytes.byteLength} bytes, but may have ${MOST_CHUNK_BYTES}`,
      );
    }
    this.#connection.sendAudio(bytes);
  }

  sendText(text, requestId = newId()) {
    if (requestId.length > MOST_ID_CHARACTERS) {
      throw new VoxtralError(`requestId may have ${MOST_ID_CHARACTERS} characters`);
    }
    this.#send({ type: "text_input", text, request_id: requestId });
    return requestId;
  }

  endTurn() {
    this.#send({ type: "control", control_type: "end_turn" });
  }

  cancel() {
    this.#send({ type: "control", control_type: "cancel" });
  }

  // The worker forgets what was said; out of its reach, the session is given up.
  clearHistory() {
    if (this.state === "open") this.#send({ type: "control", control_type: "clear_history" });
    else this.#connection.startOver();
  }

  update(options) {
    Object.assign(this.#connection.config, options);
    // A session that is not there yet begins with them.
    if (this.sessionId) this.#send({ type: "config_update", config: options });
  }

  sendToolResult(callId, content, { isError = false } = {}) {
    this.#send({
      type: "tool_result",
      call_id: callId,
      content,
      ...(isError ? { is_error: true } : {}),
    });
  }

  played(turnId, playedMs) {
    const played = { control_type: "played", turn_id: turnId, played_ms: Math.round(playedMs) };
    this.#connection.ask({ type: "control", ...played });
  }

  ping() {
    this.#connection.ask({ type: "control", control_type: "ping" });
  }

  getStats() {
    this.#connection.ask({ type: "control", control_type: "get_stats" });
  }

  dropAudio() {
    this.#connection.dropAudio();
  }

  session() {
    return this.#rest.call("GET", `/session/${this.sessionId}`);
  }

  health() {
    return this.#rest.health();
  }

  #send(message) {
    this.#connection.sendMessage(message);
  }

  #emit(type, event) {
    this.#tell(type, event);
    if (type === "message") this.#tell(event.type, event);
  }

  #tell(type, event) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) listener(event);
  }
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
