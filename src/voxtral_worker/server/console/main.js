// The page: what the person does goes to the connection, what comes back goes to the views.

import { ClipPlayer } from "./clips.js";
import { Connection, NeedsKey } from "./connection.js";
import { Conversation } from "./conversation.js";
import { LevelView } from "./level.js";
import { Microphone } from "./microphone.js";
import { SettingsForm } from "./settings.js";

const $ = (id) => document.getElementById(id);

const STATE_NAMES = {
  off: "Not connected",
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Reconnecting…",
};
const FLOOR_NAMES = {
  off: "Press Talk and speak, or type below.",
  listening: "Listening…",
  speaking: "Hearing you…",
  thinking: "Thinking…",
  answering: "Answering…",
};

const floor = { isSpeaking: false, busy: null, isAnswering: false };
let requests = 0;

const settings = new SettingsForm($("settings"), (changes) => connection.configure(changes));
const level = new LevelView($("level"));
const conversation = new Conversation($("turns"), announce);
const connection = new Connection({ onMessage, onState, config: settings.values() });
const microphone = new Microphone({
  onChunk: (pcm) => connection.sendAudio(pcm),
  onLevel: (value) => level.add(value, floor.isSpeaking),
  onLost: () => stopTalking("The microphone was taken away."),
});
const clips = new ClipPlayer({
  onChunk: (pcm) => connection.sendAudio(pcm),
  onLevel: (value) => level.add(value, floor.isSpeaking),
  onEnd: showPlaying,
});

function announce(text) {
  $("announcer").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function showFloor() {
  let name = microphone.isOn || clips.isOn ? "listening" : "off";
  if (floor.busy) name = floor.isAnswering ? "answering" : "thinking";
  if (floor.isSpeaking) name = "speaking";
  document.body.dataset.floor = name;
  $("floor").textContent = FLOOR_NAMES[name];
  $("cancel").disabled = !floor.busy;
  $("empty").hidden = $("turns").childElementCount > 0;
}

function onState(state, detail) {
  document.body.dataset.connection = state;
  $("connection").textContent = STATE_NAMES[state];
  if (detail === "needs key") askForKey();
  else if (state !== "connecting") notice(detail);
  if (state === "off") {
    Object.assign(floor, { isSpeaking: false, busy: null, isAnswering: false });
    stopTalking();
    stopPlaying();
  }
  showFloor();
}

function onMessage(message) {
  if (message.type === "session") conversation.newSession();
  if (message.status === "config_updated") settings.show(message.config);
  if (message.status === "history_cleared") conversation.clear();
  if (message.status === "history_trimmed") {
    notice("The oldest turns no longer fit and were forgotten.");
  }
  if (message.status === "draining") notice("This worker is going away.");
  follow(message);
  const isOfTurn = conversation.take(message);
  if (message.type === "error" && !isOfTurn) notice(message.error);
  showFloor();
}

function follow({ type, status, turn_id: turnId }) {
  if (status === "speech_started") floor.isSpeaking = true;
  if (status === "speech_ended" || status === "no_speech") floor.isSpeaking = false;
  if (status === "processing" || type === "text_delta") floor.busy = turnId;
  if (status === "processing") floor.isAnswering = false;
  if (type === "text_delta") floor.isAnswering = true;
  const isOver = type === "text_response" || type === "error";
  if (isOver && turnId === floor.busy) floor.busy = null;
}

function askForKey() {
  $("key-form").hidden = false;
  notice("This worker asks for an API key or a token.");
  $("key").focus();
}

async function startTalking() {
  $("talk").disabled = true;
  stopPlaying();
  try {
    notice("");
    await microphone.start();
    connection.open();
  } catch (error) {
    notice(error.message);
    announce(error.message);
  }
  showTalking();
}

async function stopTalking(reason = "") {
  if (!microphone.isOn) return;
  $("talk").disabled = true;
  await microphone.stop();
  if (floor.isSpeaking) connection.control("end_turn");
  level.clear();
  if (reason) notice(reason);
  showTalking();
}

function showTalking() {
  const { isOn } = microphone;
  $("talk").disabled = false;
  $("talk-name").textContent = isOn ? "Stop talking" : "Talk";
  document.body.classList.toggle("is-talking", isOn);
  showFloor();
}

async function startPlaying() {
  await stopTalking();
  notice("");
  connection.open();
  const isPlaying = clips.play($("clip").value);
  showPlaying();
  try {
    await isPlaying;
  } catch (error) {
    notice(`The clip cannot be played: ${error.message}`);
  }
  showPlaying();
}

function stopPlaying() {
  if (!clips.isOn) return;
  clips.stop();
  if (floor.isSpeaking) connection.control("end_turn");
  level.clear();
  showPlaying();
}

function showPlaying() {
  $("play").textContent = clips.isOn ? "Stop clip" : "Play clip";
  showFloor();
}

async function showClips() {
  const known = await clips.list().catch(() => ({}));
  for (const [name, words] of Object.entries(known)) $("clip").add(new Option(words, name));
  $("clips").hidden = !$("clip").options.length;
}

function sendTyped(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  requests += 1;
  const requestId = `console-${requests}`;
  conversation.typed(text, requestId);
  connection.sendText(text, requestId);
  $("text").value = "";
  showFloor();
}

async function useKey(event) {
  event.preventDefault();
  connection.setKey($("key").value);
  notice("");
  if (await showModel()) {
    $("key-form").hidden = true;
    connection.open();
  }
}

// Says whether the worker could be asked.
async function showModel() {
  try {
    const { model } = await connection.health();
    $("model").textContent = model?.id ?? "";
    $("tiny").hidden = model?.id !== "voxtral-tiny";
    return true;
  } catch (error) {
    if (error instanceof NeedsKey) askForKey();
    else notice("The worker does not answer.");
    return false;
  }
}

$("talk").addEventListener("click", () => (microphone.isOn ? stopTalking() : startTalking()));
$("play").addEventListener("click", () => (clips.isOn ? stopPlaying() : startPlaying()));
$("cancel").addEventListener("click", () => connection.control("cancel"));
$("clear").addEventListener("click", () => {
  connection.startOver();
  conversation.clear();
  showFloor();
});
$("composer").addEventListener("submit", sendTyped);
$("key-form").addEventListener("submit", useKey);
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && floor.busy) connection.control("cancel");
});

// On a narrow screen the conversation comes first.
for (const id of ["panel", "clips"]) $(id).open = window.matchMedia("(min-width: 861px)").matches;
showFloor();
showClips();
showModel();
