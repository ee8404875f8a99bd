// Every message in both directions as it went over the connection, and the ids to ask about.

import { copyText } from "./conversation.js";
import { element } from "./notices.js";

const MOST_ENTRIES = 500;
const SUMMARY = ["status", "control_type", "code", "name", "text", "error", "finish_reason"];
const LONGEST_SUMMARY = 60;

export class Inspector {
  constructor({ list, filter, isPaused, clear }) {
    this.list = list;
    this.filter = filter;
    this.isPaused = isPaused;
    this.startedAt = performance.now();
    this.sound = null; // the last entry, while it counts audio
    filter.addEventListener("input", () => this.#filter());
    clear.addEventListener("click", () => this.#clear());
  }

  received(message) {
    this.#add("in", message);
  }

  receivedSound({ turn_id: turnId, data }) {
    this.#add("in", { type: "sound", turn_id: turnId, bytes: data.byteLength });
  }

  sent(message) {
    if (message.type === "audio") this.#countAudio(message.bytes);
    else this.#add("out", message);
  }

  // What happened here, with no message on the connection.
  noted(type, details) {
    this.#add("own", { type, ...details });
  }

  #countAudio(bytes) {
    if (this.isPaused.checked) return;
    const { sound } = this;
    if (!sound || sound.entry !== this.list.lastElementChild) {
      this.sound = { entry: this.#add("out", { type: "audio", frames: 1, bytes }), frames: 1, bytes };
      return;
    }
    sound.frames += 1;
    sound.bytes += bytes;
    this.#write(sound.entry, { type: "audio", frames: sound.frames, bytes: sound.bytes });
  }

  #add(direction, message) {
    if (this.isPaused.checked) return null;
    const entry = element("details", `entry is-${direction}`);
    const at = ((performance.now() - this.startedAt) / 1000).toFixed(2);
    const head = element("summary");
    const arrow = element("span", "arrow", { in: "↓", out: "↑", own: "·" }[direction]);
    arrow.title = { in: "from the worker", out: "to the worker", own: "in this page" }[direction];
    head.append(element("span", "at", at), arrow, element("span", "kind"), element("span", "about"));
    entry.append(head);
    entry.addEventListener("toggle", () => this.#unfold(entry));
    this.#write(entry, message);
    this.list.append(entry);
    while (this.list.childElementCount > MOST_ENTRIES) this.list.firstElementChild.remove();
    return entry;
  }

  #write(entry, message) {
    const about = SUMMARY.map((key) => message[key]).filter((value) => typeof value === "string" && value);
    if (message.bytes) about.push(`${message.bytes} bytes`);
    if (message.frames) about.push(`in ${message.frames} frames`);
    const words = about.join(" · ");
    entry.message = message;
    entry.querySelector(".kind").textContent = message.type;
    entry.querySelector(".about").textContent =
      words.length > LONGEST_SUMMARY ? `${words.slice(0, LONGEST_SUMMARY)}…` : words;
    entry.hidden = !this.#isWanted(entry);
    const shown = entry.querySelector("pre");
    if (shown) shown.textContent = JSON.stringify(message, null, 2);
  }

  // The JSON is written when somebody wants to see it.
  #unfold(entry) {
    if (!entry.open || entry.querySelector("pre")) return;
    const json = element("pre", "", JSON.stringify(entry.message, null, 2));
    json.tabIndex = 0;
    const copy = element("button", "plain small", "Copy JSON");
    copy.type = "button";
    copy.addEventListener("click", () => copyText(copy, JSON.stringify(entry.message)));
    entry.append(json, copy);
  }

  #isWanted({ message }) {
    const wanted = this.filter.value.trim().toLowerCase();
    if (!wanted) return message.type !== "heartbeat";
    return JSON.stringify(message).toLowerCase().includes(wanted);
  }

  #filter() {
    for (const entry of this.list.children) entry.hidden = !this.#isWanted(entry);
  }

  #clear() {
    this.list.replaceChildren();
    this.sound = null;
  }
}
