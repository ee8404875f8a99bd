// The conversation as it is seen: for each turn what was said, what was called, the answer, its latency.

import { element, sentence } from "./notices.js";

const NOTES = { length: "cut at the longest answer", interrupted: "interrupted" };
const GUESS = "guessed while you spoke";
const BEGINNINGS = ["speech_started", "no_speech"];
// So near the end, whoever reads wants to see what comes.
const NEAR_PX = 60;

export class Conversation {
  constructor({ list, toLatest, latency, announce, onRetry }) {
    this.list = list;
    this.scroller = list.parentElement;
    this.toLatest = toLatest;
    this.latency = latency;
    this.announce = announce;
    this.onRetry = onRetry;
    this.turns = new Map(); // key → turn
    this.session = 0;
    this.isTranscribing = false;
    this.isFollowing = true;
    this.scroller.addEventListener("scroll", () => this.#look());
    toLatest.addEventListener("click", () => this.#scrollDown());
    new ResizeObserver(() => this.#follow()).observe(this.scroller);
  }

  /** Whether a text waits for a connection. */
  get hasUnsent() {
    return [...this.turns.values()].some(({ isUnsent }) => isUnsent);
  }

  // Turn ids start again with a new session.
  newSession() {
    this.session += 1;
    this.endSession();
  }

  /** Nothing that was begun is answered any more. */
  endSession() {
    for (const turn of this.turns.values()) turn.row.classList.remove("is-waiting");
  }

  clear() {
    this.turns.clear();
    this.latency.clear();
    this.list.replaceChildren();
    this.toLatest.hidden = true;
    this.isFollowing = true;
  }

  /** Every turn as plain data, oldest first. */
  data() {
    return [...this.turns.values()].map(({ data }) => data);
  }

  typed(text, requestId) {
    const turn = this.#turn(`request ${requestId}`);
    Object.assign(turn.data, { source: "text", said: text, request_id: requestId });
    turn.said.textContent = text;
    turn.isUnsent = true;
    turn.row.classList.add("is-unsent");
    this.#showAside(turn);
    this.#scrollDown();
  }

  /** Something was put on the connection; a text among it is no longer waiting for that. */
  sent({ type, request_id: requestId }) {
    const turn = type === "text_input" && this.turns.get(`request ${requestId}`);
    if (!turn) return;
    turn.isUnsent = false;
    turn.row.classList.remove("is-unsent");
    turn.row.classList.add("is-waiting");
    this.#showAside(turn);
  }

  /** One message of the worker; says whether it belonged to a turn. */
  take(message) {
    if (message.turn_id === undefined || message.turn_id === null) {
      // A text that was refused has no turn.
      if (message.type !== "error" || message.request_id === undefined) return false;
    }
    const key = this.#keyOf(message);
    // The statuses of a typed turn name no request: they are no turn of their own.
    if (message.type !== "status" || BEGINNINGS.includes(message.status) || this.turns.has(key)) {
      this.#show(key, this.#turn(key), message);
    }
    this.#follow();
    return true;
  }

  /** What a tool of this page has answered. */
  answeredCall({ call_id: callId }, content, isError) {
    for (const { data, calls } of this.turns.values()) {
      const call = data.calls.find((each) => each.call_id === callId);
      if (!call) continue;
      Object.assign(call, { result: content, is_error: isError });
      const line = calls.querySelector(`[data-call="${CSS.escape(callId)}"] .call-result`);
      line.textContent = ` → ${typeof content === "string" ? content : JSON.stringify(content)}`;
    }
  }

  #keyOf(message) {
    if (message.request_id !== undefined) return `request ${message.request_id}`;
    return `${this.session}/${message.turn_id}`;
  }

  #show(key, turn, message) {
    if (message.turn_id !== undefined) turn.data.turn_id = message.turn_id;
    switch (message.type) {
      case "status":
        this.#showStatus(turn, message.status);
        break;
      case "transcript_partial":
        turn.heard = message.text;
        this.#showHeard(turn, `${message.text} …`);
        break;
      case "transcript":
        this.#showTranscript(turn, message);
        break;
      case "text_delta":
        this.#renew(turn);
        turn.row.classList.remove("is-waiting");
        (this.#isDictated(turn) ? turn.said : turn.answer).append(message.text);
        break;
      case "text_response":
        this.#renew(turn);
        this.#finish(key, turn, message);
        break;
      case "tool_call":
        this.#showCall(turn, message);
        break;
      case "error":
        this.#fail(turn, message);
        break;
    }
  }

  #isDictated(turn) {
    return this.isTranscribing && turn.data.source === "audio";
  }

  #showStatus(turn, status) {
    if (status === "speech_started") {
      turn.data.source = "audio";
      this.#showHeard(turn, "Listening…");
    }
    if (status === "speech_ended") this.#showSpoken(turn);
    if (status === "processing") {
      turn.row.classList.add("is-waiting");
      if (this.#isDictated(turn)) turn.isStale = true;
    }
    if (status === "no_speech") {
      turn.row.classList.remove("is-waiting");
      turn.row.classList.add("is-silent");
      this.#showHeard(turn, "No speech was heard.");
    }
    if (status === "turn_reopened") {
      turn.isStale = true;
      turn.words = undefined;
      turn.isOver = false;
      turn.row.classList.remove("is-waiting");
      turn.row.classList.add("is-withdrawn");
      turn.note.textContent = "withdrawn: you went on";
      turn.row.querySelector(".latency")?.remove();
    }
  }

  // What was there before counts no more: a withdrawn answer, or a guess of what is written down.
  #renew(turn) {
    if (!turn.isStale) return;
    turn.isStale = false;
    turn.row.classList.remove("is-withdrawn");
    turn.answer.textContent = "";
    turn.note.textContent = "";
    if (this.#isDictated(turn)) turn.said.textContent = "";
  }

  #showHeard(turn, text) {
    if (turn.words !== undefined) return;
    turn.said.textContent = text;
    turn.said.classList.add("is-spoken");
  }

  // Where the words cannot be written down, the guess stays.
  #showTranscript(turn, { text, error }) {
    if (error) {
      turn.cut = `not written down: ${error}`;
      this.#showAside(turn);
    } else this.#showWords(turn, text || "(no words)");
  }

  #showWords(turn, text) {
    turn.words = text;
    turn.data.said = text;
    turn.said.textContent = text;
    turn.said.classList.remove("is-spoken");
    this.#showAside(turn);
  }

  // Until the words of the whole turn come, those so far are a guess, and said to be one.
  #showSpoken(turn) {
    this.#showHeard(turn, turn.heard ? `${turn.heard} …` : "(spoken)");
    turn.isOver = true;
    this.#showAside(turn);
  }

  #showCall(turn, message) {
    const { call_id: callId, name, arguments: given } = message;
    turn.row.classList.remove("is-waiting");
    turn.data.calls.push({ call_id: callId, name, arguments: given });
    const line = element("li", "call");
    line.dataset.call = callId;
    const values = Object.entries(given ?? {}).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
    line.append(element("code", "", `${name}(${values.join(", ")})`), element("span", "call-result"));
    turn.calls.append(line);
  }

  #finish(key, turn, message) {
    const { text, finish_reason: reason, metrics, source, usage } = message;
    turn.row.classList.remove("is-waiting");
    if (usage) this.latency.count(usage);
    if (reason === "tool_calls") {
      turn.row.classList.add("is-waiting");
      return;
    }
    Object.assign(turn.data, { finish_reason: reason, metrics, usage, source });
    if (this.#isDictated(turn)) {
      turn.row.classList.add("is-transcript");
      turn.cut = NOTES[reason];
      this.#showWords(turn, text || "(no words)");
    } else {
      turn.data.answer = text;
      // What came in pieces is the same text; a resumed line may have begun in its middle.
      if (turn.answer.textContent !== text) turn.answer.textContent = text;
      turn.note.textContent = NOTES[reason] ?? (text ? "" : "no answer");
      turn.copy.hidden = !text;
    }
    if (source === "audio") turn.speechMs = metrics?.speech_ms;
    this.#showAside(turn);
    turn.row.querySelector(".latency")?.remove();
    if (metrics) turn.row.append(this.latency.figure(key, metrics));
    this.announce(text || NOTES[reason] || "No answer.");
  }

  // Beside what was said: whether it was sent, whether it is a guess, how long it took.
  #showAside(turn) {
    const isGuess = turn.data.source === "audio" && turn.heard && turn.words === undefined;
    const parts = [
      turn.isUnsent ? "Not sent yet" : "",
      isGuess && turn.isOver ? GUESS : "",
      turn.cut ?? "",
      turn.speechMs ? `${(turn.speechMs / 1000).toFixed(1)} s of speech` : "",
    ];
    turn.seconds.textContent = parts.filter(Boolean).join(" · ");
  }

  #fail(turn, { error, code }) {
    const { data, row } = turn;
    data.error = { error, code };
    turn.isUnsent = false;
    row.classList.remove("is-waiting", "is-unsent");
    this.#showAside(turn);
    row.querySelector(".problem")?.remove();
    const problem = element("div", "problem");
    const sign = element("span", "problem-sign", "!");
    sign.setAttribute("aria-hidden", "true");
    problem.append(sign, element("p", "", sentence(error)));
    if (code) problem.append(element("code", "", code));
    if (data.source === "text") {
      const again = element("button", "plain small", "Try again");
      again.type = "button";
      again.addEventListener("click", () => {
        again.remove();
        this.onRetry(data.said);
      });
      problem.append(again);
    }
    row.append(problem);
    this.announce(sentence(error));
  }

  #turn(key) {
    const known = this.turns.get(key);
    if (known) return known;
    const row = element("li", "turn");
    const user = bubble("user", "You");
    const model = bubble("model", "Voxtral");
    const calls = element("ul", "calls");
    const copy = element("button", "copy", "Copy");
    copy.type = "button";
    copy.hidden = true;
    copy.setAttribute("aria-label", "Copy this answer");
    model.box.append(copy);
    row.append(user.box, calls, model.box);
    this.list.append(row);
    const data = { at: new Date().toISOString(), source: "", said: "", answer: "", calls: [] };
    copy.addEventListener("click", () => copyText(copy, data.answer));
    const turn = {
      row,
      calls,
      copy,
      data,
      said: user.text,
      seconds: user.aside,
      answer: model.text,
      note: model.aside,
    };
    this.turns.set(key, turn);
    return turn;
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.toLatest.hidden = this.isFollowing || !this.turns.size;
  }

  #follow() {
    if (!this.turns.size) return;
    if (this.isFollowing) this.#scrollDown();
    else this.toLatest.hidden = false;
  }

  #scrollDown() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.isFollowing = true;
    this.toLatest.hidden = true;
  }
}

/** Copy a text and say so on the button that was pressed. */
export async function copyText(button, text) {
  const name = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Cannot copy";
  }
  setTimeout(() => (button.textContent = name), 1500);
}

function bubble(side, name) {
  const box = element("div", `bubble ${side}`);
  const text = element("p", "text");
  const aside = element("span", "aside");
  box.append(element("span", "who", name), text, aside);
  return { box, text, aside };
}
