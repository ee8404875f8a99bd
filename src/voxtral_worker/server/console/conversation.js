// The conversation as it is seen: for each turn what was said, the answer, and its latency.

import { latencyBar } from "./latency.js";

const NOTES = { length: "cut at the longest answer", interrupted: "interrupted" };
const GUESS = "guessed while you spoke";
const BEGINNINGS = ["speech_started", "no_speech"];

export class Conversation {
  constructor(list, announce) {
    this.list = list;
    this.announce = announce;
    this.turns = new Map(); // key → elements of the turn
    this.session = 0;
  }

  // Turn ids start again with a new session.
  newSession() {
    this.session += 1;
    for (const turn of this.turns.values()) turn.row.classList.remove("is-waiting");
  }

  clear() {
    this.turns.clear();
    this.list.replaceChildren();
  }

  typed(text, requestId) {
    const turn = this.#turn(`request ${requestId}`);
    turn.said.textContent = text;
    turn.row.classList.add("is-waiting");
  }

  // One message of the worker; says whether it belonged to a turn.
  take(message) {
    if (message.turn_id === undefined || message.turn_id === null) {
      // A text that was refused has no turn.
      if (message.type !== "error" || message.request_id === undefined) return false;
    }
    const key = this.#keyOf(message);
    // The statuses of a typed turn name no request: they are no turn of their own.
    if (message.type !== "status" || BEGINNINGS.includes(message.status) || this.turns.has(key)) {
      this.#show(this.#turn(key), message);
    }
    return true;
  }

  #keyOf(message) {
    if (message.request_id !== undefined) return `request ${message.request_id}`;
    return `${this.session}/${message.turn_id}`;
  }

  #show(turn, message) {
    switch (message.type) {
      case "status":
        this.#showStatus(turn, message.status);
        break;
      case "transcript_partial":
        turn.heard = message.text;
        this.#showHeard(turn, `${message.text} …`);
        break;
      case "text_delta":
        turn.row.classList.remove("is-waiting");
        turn.answer.append(message.text);
        break;
      case "text_response":
        this.#finish(turn, message);
        break;
      case "error":
        this.#fail(turn, message.error);
        break;
    }
    this.#follow();
  }

  #showStatus(turn, status) {
    if (status === "speech_started") this.#showHeard(turn, "(listening…)");
    if (status === "speech_ended") this.#showSpoken(turn);
    if (status === "processing") turn.row.classList.add("is-waiting");
    if (status === "no_speech") this.#fail(turn, "No speech was heard.");
  }

  #showHeard(turn, text) {
    turn.said.textContent = text;
    turn.said.classList.add("is-spoken");
  }

  // Nobody says what the whole turn was: the words so far are a guess, and said to be one.
  #showSpoken(turn) {
    this.#showHeard(turn, turn.heard ? `${turn.heard} …` : "(spoken)");
    if (turn.heard) turn.seconds.textContent = GUESS;
  }

  #finish(turn, { text, finish_reason: reason, metrics, source }) {
    turn.row.classList.remove("is-waiting");
    // What came in pieces is the same text; a resumed line may have begun in its middle.
    if (turn.answer.textContent !== text) turn.answer.textContent = text;
    if (reason in NOTES) turn.note.textContent = NOTES[reason];
    if (!text) turn.note.textContent ||= "no answer";
    if (source === "audio" && metrics.speech_ms) {
      const seconds = `${(metrics.speech_ms / 1000).toFixed(1)} s of speech`;
      turn.seconds.textContent = turn.heard ? `${GUESS} · ${seconds}` : seconds;
    }
    turn.row.querySelector(".latency")?.remove();
    turn.row.append(latencyBar(metrics));
    this.announce(text || NOTES[reason] || "No answer.");
  }

  #fail(turn, text) {
    turn.row.classList.remove("is-waiting");
    turn.note.textContent = text;
    this.announce(text);
  }

  #turn(key) {
    const known = this.turns.get(key);
    if (known) return known;
    const row = document.createElement("li");
    row.className = "turn";
    const user = bubble("user", "You");
    const model = bubble("model", "Voxtral");
    row.append(user.box, model.box);
    this.list.append(row);
    const turn = { row, said: user.text, answer: model.text, note: model.aside, seconds: user.aside };
    this.turns.set(key, turn);
    this.#follow();
    return turn;
  }

  #follow() {
    this.list.parentElement.scrollTop = this.list.parentElement.scrollHeight;
  }
}

function bubble(side, name) {
  const box = document.createElement("div");
  box.className = `bubble ${side}`;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = name;
  const text = document.createElement("p");
  text.className = "text";
  const aside = document.createElement("span");
  aside.className = "aside";
  box.append(who, text, aside);
  return { box, text, aside };
}
