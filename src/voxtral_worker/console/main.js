// The page: what the person does goes to the client, what comes back goes to the views.

import { Microphone, Speaker, Voxtral } from "/client/voxtral.js";
import { optionsInAddress, putIntoAddress } from "./address.js";
import { codeOf } from "./code.js";
import { ColdStart } from "./cold-start.js";
import { Conversation, copyText } from "./conversation.js";
import { asJson, asText, download } from "./export.js";
import { Inspector } from "./inspector.js";
import { Latency } from "./latency.js";
import { LevelView } from "./level.js";
import { Notices, sentence } from "./notices.js";
import { Panel } from "./panel.js";
import { readOptions } from "./schema.js";
import { isSame, SettingsForm } from "./settings.js";
import { Tools, TOOLS } from "./tools.js";
import { Voice } from "./voice.js";

const $ = (id) => document.getElementById(id);
const KEY_STORE = "voxtral-worker-key";
const ORIGIN = window.location.origin;
const LOADING_CHECK_MS = 2000;
// So short a break is over before anybody has read about it.
const SHORT_BREAK_MS = 1500;

const STATE_NAMES = {
  off: "Not connected",
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Reconnecting…",
  unreached: "Trying to connect…",
  refused: "Waiting for a place",
};
const FLOOR_NAMES = {
  // A telephone has no space bar.
  off: window.matchMedia("(pointer: fine)").matches
    ? "Press Talk, or hold the space bar, and speak."
    : "Press Talk and speak.",
  refused: "Waiting for a place. Nothing is recorded.",
  lost: "Reconnecting… What you say is kept.",
  unreached: "Trying to connect… What you say is kept.",
  connecting: "Connecting…",
  muted: "Muted.",
  listening: "Listening…",
  speaking: "Hearing you…",
  thinking: "Thinking…",
  answering: "Answering…",
};
// The session is over; the next word begins another one.
const OVER = {
  CLOSED: "The session was closed. Talk or type to start a new one.",
  SESSION_EXPIRED: "The session ended, as nothing was said for a while. Talk or type to start a new one.",
  SESSION_NOT_FOUND: "The worker lost the session. Talk or type to start a new one, which knows nothing of this.",
  REPLACED: "This session is open in another window. Talk or type to take it back.",
};

const floor = { isSpeaking: false, busy: null, isAnswering: false };
let requests = 0;
let key = sessionStorage.getItem(KEY_STORE) ?? "";
let settings = null; // once the worker's description is read
let inForce = {}; // the options as the worker has them
let isRefused = false;
let nextLook; // at a worker that loads, or does not answer
let hasLooked = false;

const notices = new Notices($("notices"), announce);
const voxtral = new Voxtral(ORIGIN, { token: key });
const coldStart = new ColdStart();
const latency = new Latency($("stats"));
const speaker = new Speaker({ onEnd: showFloor });
const panel = new Panel({
  dialog: $("side"),
  opener: $("menu"),
  closer: $("close-side"),
  tabs: [...document.querySelectorAll("[role=tab]")],
});
const conversation = new Conversation({
  list: $("turns"),
  toLatest: $("latest"),
  latency,
  announce,
  onRetry: sendText,
});
const inspector = new Inspector({
  list: $("events"),
  filter: $("filter"),
  isPaused: $("pause-events"),
  clear: $("clear-events"),
});
const tools = new Tools({ house: $("house"), timers: $("timers"), phone: $("phone") });
const voice = new Voice({
  voxtral,
  level: new LevelView($("level")),
  isSpeaking: () => floor.isSpeaking,
  onStart: open,
  onChange: showFloor,
  onProblem: showVoiceProblem,
});
const optionsRead = readSettings();

// The live region: answers and errors only, as what is read aloud reaches an open microphone.
function announce(text) {
  $("announcer").textContent = text;
}

// The connection

async function open() {
  notices.clear("over");
  await optionsRead;
  notices.clear("microphone");
  letSpeak();
  voxtral.open().catch(() => {});
}

function onState({ state, code, reason, retryAt }) {
  inspector.noted("state", { state, code, reason });
  if (state === "waiting") isRefused = code !== "" && !voxtral.sessionId;
  if (state === "open" || state === "off") isRefused = false;
  let name = state === "waiting" && !voxtral.sessionId ? "unreached" : state;
  if (isRefused) name = "refused";
  document.body.dataset.connection = name;
  $("connection").textContent = STATE_NAMES[name];
  voice.refuse(isRefused);
  if (state !== "connecting") notices.clear("connection");
  if (state === "waiting" && (code || retryAt - Date.now() > SHORT_BREAK_MS)) {
    const actions = [["Try now", open]];
    notices.show("connection", sentence(reason), { retryAt, actions });
  }
  if (state === "off") end(code, reason);
  showIds();
  showFloor();
}

function end(code, reason) {
  Object.assign(floor, { isSpeaking: false, busy: null, isAnswering: false });
  conversation.endSession();
  if (code === "SESSION_NOT_FOUND" && (voice.isTalking || voice.isPlaying || conversation.hasUnsent)) {
    open();
    notices.show("over", "The worker lost the session. A new one has begun, which knows nothing of this.");
    return;
  }
  voice.stopTalking();
  voice.stopPlaying();
  if (code === "UNAUTHORIZED") askForKey();
  else notices.show("over", OVER[code] ?? sentence(reason));
}

function onMessage(message) {
  inspector.received(message);
  const { type, status } = message;
  if (status === "config_updated") take(message.config);
  if (status === "history_cleared") conversation.clear();
  if (status === "history_trimmed") {
    notices.show("history", "The oldest turns no longer fit, and were forgotten.", { isQuiet: true });
  }
  if (status === "draining") notices.show("worker", "This worker is going away.");
  if (["interrupted", "cancelled", "turn_reopened"].includes(status)) beSilent();
  follow(message);
  const isOfTurn = conversation.take(message);
  if (type === "tool_call") call(message);
  if (type === "error" && !isOfTurn) showError(message);
  showFloor();
}

function showError({ error, code }) {
  notices.show("error", sentence(error), { kind: "error" });
  // An update is all or nothing: the form shows what holds.
  if (code === "INVALID_REQUEST" && error.startsWith("config")) settings?.show(inForce);
}

function follow({ type, status, turn_id: turnId, finish_reason: reason }) {
  if (status === "speech_started" || status === "turn_reopened") floor.isSpeaking = true;
  if (status === "speech_ended" || status === "no_speech") floor.isSpeaking = false;
  if (status === "processing" || type === "text_delta") floor.busy = turnId;
  if (status === "processing") floor.isAnswering = false;
  if (type === "text_delta") floor.isAnswering = true;
  const isOver = (type === "text_response" && reason !== "tool_calls") || type === "error";
  const isWithdrawn = status === "turn_reopened";
  if ((isOver || isWithdrawn) && turnId === floor.busy) floor.busy = null;
}

function floorName() {
  const isHeard = voice.isTalking || voice.isPlaying;
  if (isRefused) return "refused";
  if (isHeard && voxtral.state === "waiting") return voxtral.sessionId ? "lost" : "unreached";
  if (isHeard && voxtral.state !== "open" && !voxtral.sessionId) return "connecting";
  if (floor.isSpeaking) return "speaking";
  if (floor.busy && !floor.isAnswering) return "thinking";
  if (floor.busy || speaker.isPlaying) return "answering";
  if (voice.isTalking && voice.isMuted) return "muted";
  return isHeard ? "listening" : "off";
}

function showFloor() {
  const name = floorName();
  document.body.dataset.floor = name;
  $("floor").textContent = FLOOR_NAMES[name];
  $("cancel").hidden = !floor.busy && !speaker.isPlaying;
  $("empty").hidden = $("turns").childElementCount > 0;
  // On a narrow screen the words need the room.
  if ($("empty").hidden && !panel.wide.matches) notices.clear("tiny");
  $("talk").disabled = voice.isStarting;
  document.body.classList.toggle("is-talking", voice.isTalking);
  $("mute").hidden = !voice.isTalking;
  $("mute").textContent = voice.isMuted ? "Unmute" : "Mute";
  $("play").textContent = voice.isPlaying ? "Stop clip" : "Play clip";
}

// What is heard

// Browsers let a page make sound after a click only: this is called in one.
function letSpeak() {
  if (settings?.values().voice) speaker.start().catch(() => {});
}

function beSilent() {
  for (const { turnId, playedMs } of speaker.stop()) voxtral.played(turnId, playedMs);
}

function onSound(sound) {
  inspector.receivedSound(sound);
  const { output_sample_rate: sampleRate, output_encoding: encoding } = inForce;
  try {
    speaker.play(sound, { sampleRate, encoding });
    showFloor();
  } catch (error) {
    notices.show("speaker", sentence(error.message));
  }
}

function showVoiceProblem(code, message) {
  const actions = [];
  if (code === "BLOCKED" || code === "NOT_SECURE") actions.push(["How?", () => $("how").showModal()]);
  if (code !== "FILE" && $("clip").options.length) {
    actions.push(["Play a clip instead", playClip]);
  }
  notices.show("microphone", message, { kind: "error", actions });
}

function playClip() {
  notices.clear("microphone");
  return voice.playClip($("clip").value);
}

async function showDevices() {
  const devices = await Microphone.devices().catch(() => []);
  const named = devices.filter(({ deviceId, label }) => deviceId && label);
  $("device").replaceChildren(new Option("The browser's choice", ""));
  for (const { deviceId, label } of named) {
    if (deviceId !== "default") $("device").add(new Option(label, deviceId));
  }
  $("device").value = voice.deviceId;
  if ($("device").selectedIndex < 0) $("device").value = "";
  $("device-hint").hidden = named.length > 0;
}

function playFiles(files) {
  if (!files?.length) return;
  $("file-name").textContent = files[0].name;
  voice.playFile(files[0]);
}

// What is typed, and called

function sendText(text) {
  requests += 1;
  const requestId = `console-${Date.now().toString(36)}-${requests}`;
  conversation.typed(text, requestId);
  try {
    voxtral.sendText(text, requestId);
  } catch (error) {
    conversation.take({ type: "error", error: error.message, code: "", request_id: requestId });
  }
  open();
  showFloor();
}

function sendTyped(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  sendText(text);
  $("text").value = "";
}

function call(message) {
  const { content, isError } = tools.call(message.name, message.arguments);
  voxtral.sendToolResult(message.call_id, content, { isError });
  conversation.answeredCall(message, content, isError);
}

// Options

async function readSettings() {
  try {
    const { options, hasTools } = await readOptions();
    settings = new SettingsForm($("settings"), { options, onChange: change });
    $("tab-tools").hidden = !hasTools;
  } catch (error) {
    notices.show("settings", `The options cannot be read: ${error.message}.`);
    return;
  }
  applyAddress();
  voxtral.update(settings.config());
}

function applyAddress() {
  const wrong = settings.apply(optionsInAddress());
  if (wrong.length) {
    notices.show("address", `The address has options that cannot be used: ${wrong.join(", ")}.`);
  }
  showChosen();
}

function change(changes) {
  voxtral.update(changes);
  letSpeak();
  showChosen();
}

function take(config) {
  inForce = { ...inForce, ...config };
  settings?.show(config);
  conversation.isTranscribing = inForce.mode === "transcribe";
  showChosen();
}

function showChosen() {
  if (!settings) return;
  const chosen = settings.chosen();
  putIntoAddress(chosen);
  conversation.isTranscribing = settings.values().mode === "transcribe";
  $("code").textContent = codeOf($("language-of-code").value, { url: ORIGIN, chosen, hasKey: key !== "" });
}

// Keys, the worker's state, the session's ids

function askForKey() {
  const isWrong = key !== "";
  $("key-form").hidden = false;
  notices.show(
    "key",
    isWrong ? "That key was not accepted." : "This worker asks for an API key or a token.",
    { kind: isWrong ? "error" : "warn" },
  );
  $("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem(KEY_STORE, key);
  voxtral.token = key;
  if (!(await showWorker())) return;
  notices.clear("key");
  $("key-form").hidden = true;
  showChosen();
  open();
}

// Says whether the worker may be asked.
async function showWorker() {
  let health;
  try {
    health = await voxtral.health();
  } catch (error) {
    if (error.status === 401) askForKey();
    else if (!error.mayPass) notices.show("worker", sentence(error.message), { kind: "error" });
    else lookAgain(`${sentence(error.message)} The page looks again every few seconds.`);
    return false;
  }
  $("model").textContent = health.model?.id ?? "";
  optionsRead.then(() => settings?.offer("voice", health.voices));
  if (health.status === "starting") {
    coldStart.show(health.loading);
    lookAgain("The worker is starting. You can talk to it when all steps are done.", coldStart.list);
  }
  else if (health.status === "healthy") isUp();
  else notices.show("worker", `The worker says that it is ${health.status}.`);
  if (health.model?.id === "voxtral-tiny") showTiny();
  return true;
}

function lookAgain(text, details = null) {
  // A card that was put away stays away; one with the same words keeps its place and the focus.
  const known = notices.cards.get("worker");
  if (known ? known.text !== text : !hasLooked) {
    notices.show("worker", text, { isQuiet: hasLooked, details });
  }
  hasLooked = true;
  clearTimeout(nextLook);
  nextLook = setTimeout(showWorker, LOADING_CHECK_MS);
}

function isUp() {
  hasLooked = false;
  coldStart.stop();
  notices.clear("worker");
}

function showTiny() {
  if (notices.cards.has("tiny") || sessionStorage.getItem("voxtral-worker-tiny")) return;
  sessionStorage.setItem("voxtral-worker-tiny", "told");
  notices.show(
    "tiny",
    "This is a tiny model with 95 words. It writes down short commands such as “turn on the kitchen light”, " +
      "and cannot hold a conversation.",
    { kind: "plain", isQuiet: true },
  );
}

function showIds() {
  $("session-id").textContent = voxtral.sessionId ?? "none";
  $("copy-session-id").hidden = !voxtral.sessionId;
}

function stop() {
  voxtral.cancel();
  beSilent();
  showFloor();
}

function exported(kind) {
  const turns = conversation.data();
  const about = { session_id: voxtral.sessionId, model: $("model").textContent, config: inForce };
  if (kind === "json") download("conversation.json", "application/json", asJson(turns, about));
  else download("conversation.txt", "text/plain", asText(turns));
}

function onKey(event) {
  const isFree = event.target === document.body;
  if (event.key === "Escape" && !$("cancel").hidden && !document.querySelector(":modal")) stop();
  if (event.code !== "Space" || event.repeat || !isFree) return;
  event.preventDefault();
  voice.push(true);
}

voxtral.on("state", onState);
voxtral.on("message", onMessage);
voxtral.on("sound", onSound);
voxtral.on("session", (session) => {
  inspector.noted("session", session);
  conversation.newSession();
  if (session.config) take(session.config);
  showIds();
});
voxtral.on("sent", (message) => {
  inspector.sent(message);
  conversation.sent(message);
});
voxtral.on("lost", ({ bytes }) => {
  notices.show("lost", `${(bytes / 32000).toFixed(1)} s of what you said were lost with the connection.`);
});

$("talk").addEventListener("click", () => (voice.isTalking ? voice.stopTalking() : voice.startTalking()));
$("mute").addEventListener("click", () => voice.mute(!voice.isMuted));
$("play").addEventListener("click", () => (voice.isPlaying ? voice.stopPlaying() : playClip()));
$("cancel").addEventListener("click", stop);
$("new").addEventListener("click", () => {
  beSilent();
  voxtral.clearHistory();
  conversation.clear();
  showFloor();
});
$("composer").addEventListener("submit", sendTyped);
$("key-form").addEventListener("submit", useKey);
$("device").addEventListener("change", ({ target }) => voice.choose(target.value));
$("file").addEventListener("change", ({ target }) => playFiles(target.files));
$("offer-tools").addEventListener("change", ({ target }) => {
  voxtral.update({ tools: target.checked ? TOOLS : [] });
});
$("language-of-code").addEventListener("change", showChosen);
$("copy-code").addEventListener("click", ({ target }) => copyText(target, $("code").textContent));
$("copy-link").addEventListener("click", ({ target }) => copyText(target, window.location.href));
$("copy-session-id").addEventListener("click", ({ target }) => copyText(target, voxtral.sessionId));
$("reset").addEventListener("click", () => {
  const changed = settings.chosen();
  settings.show(settings.initial);
  const values = settings.values();
  const back = Object.fromEntries(Object.keys(changed).map((name) => [name, values[name]]));
  if (Object.keys(back).length) change(back);
});
for (const kind of ["json", "text"]) $(`export-${kind}`).addEventListener("click", () => exported(kind));
for (const button of document.querySelectorAll("[data-open]")) {
  button.addEventListener("click", () => panel.open(button.dataset.open));
}
document.addEventListener("keydown", onKey);
document.addEventListener("keyup", ({ code }) => code === "Space" && voice.push(false));
window.addEventListener("hashchange", () => {
  if (!settings) return;
  const before = settings.values();
  settings.show(settings.initial);
  applyAddress();
  const changed = Object.entries(settings.values()).filter(([name, value]) => !isSame(value, before[name]));
  if (changed.length) change(Object.fromEntries(changed));
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-dropping");
});
for (const type of ["dragleave", "drop"]) {
  document.addEventListener(type, () => document.body.classList.remove("is-dropping"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  playFiles(event.dataTransfer.files);
});
navigator.mediaDevices?.addEventListener("devicechange", showDevices);
$("tab-sound").addEventListener("click", showDevices);

showFloor();
showIds();
showDevices();
showWorker();
voice
  .listClips()
  .catch(() => ({}))
  .then((clips) => {
    for (const [name, words] of Object.entries(clips)) $("clip").add(new Option(words, name));
    $("clips").hidden = !$("clip").options.length;
  });
