// One session with the worker, and the socket that reaches it.
//
// A lost socket is opened again with exponential backoff and `last_seq`: the worker sends
// what was missed, and says how much audio it has, so that the rest can follow.
//
//   off ──open──▶ connecting ──connected──▶ open ──lost──▶ waiting ──▶ connecting
//    ▲                                       │
//    └──── ended: expired, replaced, key ────┘

import { Outbox } from "./outbox.js";

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 30000;
const OPEN_LIMIT_MS = 10000;
const SILENCE_CHECK_MS = 5000;
const KEY_STORE = "voxtral-worker-key";

const CLOSE_DONE = 1000;
const CLOSE_NOT_FOUND = 4404;
const CLOSE_EXPIRED = 4408;
const CLOSE_REPLACED = 4409;
const ENDINGS = {
  [CLOSE_DONE]: "The session was closed. Talk or type to start a new one.",
  [CLOSE_EXPIRED]: "The session ended because nothing was said for a while. Talk or type to start a new one.",
  [CLOSE_REPLACED]: "This session is open in another window.",
};

export class NeedsKey extends Error {}

class NotNow extends Error {
  constructor(message, retryAfterMs) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

export class Connection {
  constructor({ onMessage, onState, config }) {
    this.onMessage = onMessage;
    this.onState = onState;
    this.config = config;
    this.outbox = new Outbox();
    this.waitingTexts = [];
    this.key = sessionStorage.getItem(KEY_STORE) ?? "";
    this.sessionId = null;
    this.socket = null;
    this.attempts = 0;
    this.state = "off";
    window.addEventListener("online", () => this.#retryNow());
    setInterval(() => this.#checkSilence(), SILENCE_CHECK_MS);
  }

  setKey(key) {
    this.key = key.trim();
    sessionStorage.setItem(KEY_STORE, this.key);
  }

  async health() {
    const response = await fetch("/health", { headers: this.#headers(), cache: "no-store" });
    if (response.status === 401) throw new NeedsKey("The worker asks for a key.");
    return response.json();
  }

  // Start, or start again; harmless where a connection is on its way.
  open() {
    if (this.state === "off") this.#connect();
    else this.#retryNow();
  }

  sendAudio(chunk) {
    this.outbox.add(chunk);
    this.#flush();
  }

  sendText(text, requestId) {
    this.waitingTexts.push({ type: "text_input", text, request_id: requestId });
    this.open();
    this.#flush();
  }

  // A command is worth nothing later: without a connection it is not sent.
  control(controlType) {
    this.#send({ type: "control", control_type: controlType });
  }

  configure(changes) {
    Object.assign(this.config, changes);
    this.isConfigStale = this.state !== "open";
    this.#send({ type: "config_update", config: changes });
  }

  // The worker forgets what was said; out of its reach, the session is given up.
  startOver() {
    if (this.state === "open") this.control("clear_history");
    else this.sessionId = null;
  }

  #headers() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }

  #send(message) {
    if (this.state !== "open") return;
    this.socket.send(JSON.stringify({ ...message, timestamp: Date.now() / 1000 }));
  }

  #flush() {
    if (this.state !== "open") return;
    for (const chunk of this.outbox.takeUnsent()) this.socket.send(chunk);
    for (const message of this.waitingTexts.splice(0)) this.#send(message);
  }

  #enter(state, detail = "") {
    this.state = state;
    this.onState(state, detail);
  }

  async #connect() {
    clearTimeout(this.timer);
    this.#enter("connecting");
    try {
      if (this.sessionId && this.attempts) await this.#checkSession();
      if (!this.sessionId) await this.#createSession();
      this.#openSocket();
    } catch (error) {
      if (error instanceof NeedsKey) this.#enter("off", "needs key");
      else this.#wait(error.retryAfterMs, error instanceof NotNow ? error.message : "");
    }
  }

  async #createSession() {
    const response = await fetch("/session/create", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...this.#headers() },
      body: JSON.stringify({ config: this.config }),
    });
    const answer = await this.#read(response);
    this.sessionId = answer.session_id;
    this.token = answer.token ?? this.key;
    this.lastSeq = 0;
    this.isResuming = false;
    this.isConfigStale = false;
    this.outbox.startOver();
    this.onMessage({ type: "session", session_id: this.sessionId });
  }

  // A browser does not tell why a socket was refused: ask by REST.
  async #checkSession() {
    const response = await fetch(`/session/${this.sessionId}`, { headers: this.#headers() });
    if (response.status === 404) this.sessionId = null;
    else await this.#read(response);
  }

  async #read(response) {
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    if (response.status === 401) throw new NeedsKey(answer.error);
    const seconds = Number(response.headers.get("Retry-After"));
    throw new NotNow(answer.error ?? `The worker answered ${response.status}.`, seconds * 1000);
  }

  #openSocket() {
    const url = new URL(`/ws/audio/${this.sessionId}`, window.location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.token) url.searchParams.set("token", this.token);
    if (this.isResuming) url.searchParams.set("last_seq", this.lastSeq);
    const socket = new WebSocket(url);
    this.socket = socket;
    this.heardAt = Date.now();
    this.beatGapMs = Infinity;
    this.beatAt = null;
    const limit = setTimeout(() => this.#drop(socket), OPEN_LIMIT_MS);
    socket.onmessage = ({ data }) => {
      clearTimeout(limit);
      if (socket === this.socket) this.#hear(JSON.parse(data));
    };
    socket.onclose = ({ code }) => {
      clearTimeout(limit);
      if (socket === this.socket) this.#lose(code);
    };
  }

  #hear(message) {
    this.heardAt = Date.now();
    if (message.seq && message.type !== "heartbeat") this.lastSeq = message.seq;
    if (message.type === "heartbeat") this.#feelBeat();
    if (message.status === "connected" && !this.isResuming) this.#ready();
    if (message.status === "resumed") {
      this.outbox.rewind(message.audio_bytes_received);
      this.#ready();
    }
    if (message.type === "error" && message.code === "SESSION_NOT_FOUND") return;
    this.onMessage(message);
  }

  #ready() {
    this.attempts = 0;
    this.isResuming = true;
    this.#enter("open");
    if (this.isConfigStale) this.configure(this.config);
    this.#flush();
  }

  #lose(code) {
    this.socket = null;
    if (code === CLOSE_NOT_FOUND || code === CLOSE_EXPIRED || code === CLOSE_DONE) {
      this.sessionId = null;
    }
    if (code in ENDINGS) this.#enter("off", ENDINGS[code]);
    else this.#wait();
  }

  #wait(atLeastMs = 0, why = "") {
    const backoff = Math.min(FIRST_DELAY_MS * 2 ** this.attempts, LONGEST_DELAY_MS);
    // Clients that were cut off together should not come back together.
    const delay = Math.max(atLeastMs || 0, backoff * (0.75 + Math.random() / 2));
    this.attempts += 1;
    this.timer = setTimeout(() => this.#connect(), delay);
    const when = delay < 1500 ? "Reconnecting…" : `Trying again in ${Math.round(delay / 1000)} s.`;
    this.#enter("waiting", [why, when].filter(Boolean).join(" "));
  }

  #retryNow() {
    if (this.state === "waiting") this.#connect();
  }

  #feelBeat() {
    const now = Date.now();
    if (this.beatAt) this.beatGapMs = now - this.beatAt;
    this.beatAt = now;
  }

  // A network that vanishes closes nothing; the missing heartbeats show it.
  #checkSilence() {
    const isDead = Date.now() - this.heardAt > 2.5 * this.beatGapMs + SILENCE_CHECK_MS;
    if (this.state === "open" && isDead) this.#drop(this.socket);
  }

  #drop(socket) {
    if (socket !== this.socket) return;
    socket.onclose = null;
    socket.close();
    this.#lose(1006);
  }
}
