// One session with the worker, and the socket that reaches it.
//
// A lost socket is opened again with exponential backoff and `last_seq`: the worker sends
// what was missed, and says how much audio it has, so that the rest can follow.
//
//   off ──open──▶ connecting ──connected──▶ open ──lost──▶ waiting ──▶ connecting
//    ▲                                       │
//    └── ended: closed, expired, replaced, refused for good ──┘

import { Journal } from "./journal.js";
import { VoxtralError } from "./rest.js";

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 30000;
const OPEN_LIMIT_MS = 10000;
const SILENCE_CHECK_MS = 5000;
// A network that takes nothing more is a lost one.
const MOST_BUFFERED_BYTES = 8 << 20;

const NOT_FOUND = 4404;
const REPLACED = 4409;
// The close codes after which the worker has nothing more to say to this connection.
const ENDINGS = {
  1000: ["CLOSED", "the session was closed"],
  1008: ["NOT_READ", "the worker closed the connection, as its messages were not read"],
  1009: ["PAYLOAD_TOO_LARGE", "a message was too large"],
  4400: ["INVALID_REQUEST", "the options of the session cannot be used"],
  [NOT_FOUND]: ["SESSION_NOT_FOUND", "the worker does not know the session any more"],
  4408: ["SESSION_EXPIRED", "the session ended, as nothing was said for a while"],
  [REPLACED]: ["REPLACED", "another connection has taken the session over"],
  4429: ["RATE_LIMITED", "limits were ignored for too long"],
};

export class Connection {
  #rest;
  #emit;
  #journal = new Journal();
  #socket = null;
  #attempt = null; // of whichever is under way; one that was given up goes no further
  #failures = 0;
  #timer;
  #watch;
  #lastSeq = 0;
  #isResuming = false;
  #isRefused = false; // the last socket closed before it said anything
  // Behind one address are several workers, and another one has created the session.
  #isOpenedBySocket = false;
  #token;
  #given; // the options that the session began with, as JSON
  #heard = { at: 0, beatAt: null, beatGapMs: Infinity };
  #waiters = [];
  #soundOf = null; // the `audio` message whose frame is next

  constructor(rest, config, emit) {
    this.#rest = rest;
    this.#emit = emit;
    this.config = config;
    this.sessionId = null;
    this.state = "off";
    globalThis.addEventListener?.("online", () => this.#retryNow());
  }

  /** Open it, or open it again at once; resolves when it is open, rejects when it is off. */
  open() {
    const isOpen = new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
    // Whoever does not wait hears of it by `state`.
    isOpen.catch(() => {});
    if (this.state === "off") this.#connect();
    else if (this.state === "open") this.#settle();
    else this.#retryNow();
    return isOpen;
  }

  /** End the session at the worker too. */
  async close() {
    clearTimeout(this.#timer);
    this.#attempt = null;
    const { sessionId } = this;
    this.#leave();
    this.sessionId = null;
    this.#journal = new Journal();
    this.#enter("off", { code: "CLOSED", reason: "the session was closed" });
    if (sessionId) await this.#discard(sessionId);
  }

  sendAudio(chunk) {
    const lostBytes = this.#journal.addAudio(chunk);
    if (lostBytes) this.#emit("lost", { bytes: lostBytes });
    this.#flush();
  }

  sendMessage(message) {
    this.#journal.addMessage(message);
    this.#flush();
  }

  /** Send what is worth nothing later: without a connection it is not sent. */
  ask(message) {
    if (this.state === "open") this.#put(message, JSON.stringify(message));
  }

  dropAudio() {
    this.#journal.dropAudio();
  }

  /** Give the session up: the next one knows nothing of it. */
  startOver() {
    const { sessionId } = this;
    this.#forgetSession();
    if (this.state === "connecting" || this.state === "waiting") {
      this.#leave();
      this.#connect();
    }
    if (sessionId) this.#discard(sessionId);
  }

  #forgetSession() {
    this.sessionId = null;
    this.#isResuming = false;
  }

  #flush() {
    if (this.state !== "open") return;
    for (const { chunk, message, wire } of this.#journal.takeUnsent()) this.#put(chunk ?? message, wire);
    if (this.#socket.bufferedAmount > MOST_BUFFERED_BYTES) this.#drop(this.#socket);
  }

  #put(content, wire) {
    this.#socket.send(wire ?? content);
    this.#emit("sent", wire ? content : { type: "audio", bytes: content.byteLength });
  }

  #enter(state, { code = "", reason = "", retryAt = null } = {}) {
    this.state = state;
    clearInterval(this.#watch);
    if (state === "open") this.#watch = setInterval(() => this.#checkSilence(), SILENCE_CHECK_MS);
    this.#emit("state", { state, code, reason, retryAt, sessionId: this.sessionId });
    if (state === "open") this.#settle();
    if (state === "off") this.#settle(new VoxtralError(reason, { code }));
  }

  #settle(error) {
    for (const { resolve, reject } of this.#waiters.splice(0)) error ? reject(error) : resolve();
  }

  async #connect() {
    clearTimeout(this.#timer);
    const attempt = {};
    this.#attempt = attempt;
    this.#enter("connecting");
    try {
      if (this.sessionId && this.#isRefused) await this.#askWhy();
      if (this.#attempt !== attempt) return;
      if (!this.sessionId && !this.#isOpenedBySocket) {
        this.#given = JSON.stringify(this.config);
        const session = await this.#rest.call("POST", "/session/create", { config: this.config });
        if (this.#attempt !== attempt) return void this.#discard(session.session_id);
        this.#begin(session.token);
        this.#know(session.session_id, session.config);
      }
    } catch (error) {
      if (this.#attempt !== attempt) return;
      if (error.mayPass) this.#wait(error);
      else this.#enter("off", { code: error.code, reason: error.message });
      return;
    }
    this.#openSocket();
  }

  // A browser does not tell why a socket was refused: ask by a call. What it says of the session
  // is left to the socket, since another worker may answer here.
  async #askWhy() {
    try {
      await this.#rest.call("GET", `/session/${this.sessionId}`);
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }

  async #discard(sessionId) {
    await this.#rest.call("DELETE", `/session/${sessionId}`).catch(() => {});
  }

  #begin(token) {
    this.#token = token ?? this.#rest.token;
    this.#lastSeq = 0;
    this.#isResuming = false;
    this.#giveUpTexts("SESSION_NOT_FOUND", "the session was lost before this text was answered");
    this.#journal.startOver();
  }

  #know(sessionId, config) {
    this.sessionId = sessionId;
    // Options may have changed while the session was being made.
    if (JSON.stringify(this.config) !== this.#given) {
      this.#journal.addMessage({ type: "config_update", config: { ...this.config } });
    }
    this.#emit("session", { session_id: sessionId, config });
  }

  #giveUpTexts(code, error) {
    for (const requestId of this.#journal.giveUpTexts()) {
      this.#emit("message", { type: "error", code, error, request_id: requestId });
    }
  }

  #openSocket() {
    const url = new URL(this.sessionId ? `/ws/audio/${this.sessionId}` : "/ws/audio", this.#rest.url);
    url.protocol = url.protocol.replace("http", "ws");
    if (!this.sessionId) {
      this.#given = JSON.stringify(this.config);
      url.searchParams.set("config", this.#given);
      this.#begin();
    }
    if (this.#token) url.searchParams.set("token", this.#token);
    if (this.#isResuming) url.searchParams.set("last_seq", this.#lastSeq);
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#soundOf = null;
    this.#isRefused = true;
    this.#heard = { at: Date.now(), beatAt: null, beatGapMs: Infinity };
    const limit = setTimeout(() => this.#drop(socket), OPEN_LIMIT_MS);
    socket.onmessage = ({ data }) => {
      clearTimeout(limit);
      if (socket !== this.#socket) return;
      if (typeof data === "string") this.#hear(JSON.parse(data));
      else this.#hearSound(data);
    };
    socket.onclose = ({ code }) => {
      clearTimeout(limit);
      if (socket === this.#socket) this.#lose(code);
    };
  }

  #hear(message) {
    this.#isRefused = false;
    this.#heard.at = Date.now();
    if (message.type === "heartbeat") this.#feelBeat();
    else if (message.seq) this.#lastSeq = message.seq;
    if (message.type === "audio") this.#soundOf = message;
    if (message.type === "error") this.#noteRefusal(message);
    this.#journal.take(message);
    if (message.status === "connected" && !this.sessionId) {
      this.#token = message.token ?? this.#token;
      this.#know(message.session_id, message.config);
    }
    if (message.status === "connected" && !this.#isResuming) this.#ready();
    if (message.status === "resumed") this.#resume(message);
    // A new session is tried in its place: nothing of the caller's was lost.
    if (message.code === "SESSION_NOT_FOUND" && !this.#isResuming) return;
    this.#emit("message", message);
  }

  #hearSound(data) {
    this.#heard.at = Date.now();
    const message = this.#soundOf;
    this.#soundOf = null;
    if (message) this.#emit("sound", { ...message, data });
  }

  #noteRefusal({ code, turn_id: turnId, request_id: requestId }) {
    const isOfOne = turnId !== undefined || requestId !== undefined;
    if (code === "RATE_LIMITED" && !isOfOne) this.#journal.forgetAudio();
  }

  #resume({ audio_bytes_received: receivedBytes, missed }) {
    if (missed) {
      this.#giveUpTexts(
        "MESSAGES_MISSED",
        "the worker no longer holds all messages from while the connection was lost, so it is not " +
          "known whether it took this text",
      );
    }
    const lostBytes = this.#journal.rewind(receivedBytes);
    if (lostBytes) this.#emit("lost", { bytes: lostBytes });
    this.#ready();
  }

  #ready() {
    this.#failures = 0;
    this.#isResuming = true;
    this.#isOpenedBySocket = false;
    this.#enter("open");
    this.#flush();
  }

  #lose(code) {
    this.#socket = null;
    const isNew = !this.#isResuming;
    if (code === NOT_FOUND && isNew) {
      this.#isOpenedBySocket = true;
      this.sessionId = null;
      this.#wait();
    } else if (code in ENDINGS) {
      const [name, reason] = ENDINGS[code];
      if (code !== REPLACED) {
        this.#forgetSession();
        this.#giveUpTexts(name, `${reason}, before this text was answered`);
      }
      this.#enter("off", { code: name, reason });
    } else {
      // The call that creates a session says why a socket that would have created it was refused.
      if (this.#isRefused && !this.sessionId) this.#isOpenedBySocket = false;
      this.#wait();
    }
  }

  #wait({ retryAfterMs = 0, message = "", code = "" } = {}) {
    const backoff = Math.min(FIRST_DELAY_MS * 2 ** this.#failures, LONGEST_DELAY_MS);
    // Clients that were cut off together should not come back together.
    const delay = Math.max(retryAfterMs, backoff * (0.75 + Math.random() / 2));
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), delay);
    const reason = message || "the connection was lost";
    this.#enter("waiting", { code, reason, retryAt: Date.now() + delay });
  }

  #retryNow() {
    if (this.state === "waiting") this.#connect();
  }

  #feelBeat() {
    const now = Date.now();
    if (this.#heard.beatAt) this.#heard.beatGapMs = now - this.#heard.beatAt;
    this.#heard.beatAt = now;
  }

  // A network that vanishes closes nothing; the missing heartbeats show it.
  #checkSilence() {
    const { at, beatGapMs } = this.#heard;
    if (Date.now() - at > 2.5 * beatGapMs + SILENCE_CHECK_MS) this.#drop(this.#socket);
  }

  #drop(socket) {
    if (socket !== this.#socket) return;
    this.#leave();
    this.#lose(1006);
  }

  #leave() {
    if (!this.#socket) return;
    this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }
}
