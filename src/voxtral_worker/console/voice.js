// Who speaks: the microphone, a recording, or nobody.

import { Microphone } from "/client/voxtral.js";
import { ClipPlayer } from "./clips.js";

const CLIPS = "/console/clips/";
// What was said when the key was let go is still on its way through the audio thread.
const LAST_CHUNK_MS = 150;
const DEVICE_STORE = "voxtral-worker-microphone";

export class Voice {
  #voxtral;
  #onChange;
  #onProblem;
  #isSpeaking;
  #isStarting = false;
  #isMuted = false;
  #isRefused = false;
  #isPushed = false;

  constructor({ voxtral, level, isSpeaking, onStart, onChange, onProblem }) {
    this.#voxtral = voxtral;
    this.level = level;
    this.onStart = onStart;
    this.#isSpeaking = isSpeaking;
    this.#onChange = onChange;
    this.#onProblem = onProblem;
    const onChunk = (chunk) => voxtral.sendAudio(chunk);
    const onLevel = (loudness) => level.add(loudness, isSpeaking());
    this.microphone = new Microphone({
      onChunk,
      onLevel,
      onLost: () => {
        this.stopTalking();
        onProblem("LOST", "The microphone was unplugged, or the page may not use it any more.");
      },
    });
    this.clips = new ClipPlayer({ onChunk, onLevel, onEnd: onChange });
  }

  get isTalking() {
    return this.microphone.isOn;
  }

  get isPlaying() {
    return this.clips.isOn;
  }

  get isStarting() {
    return this.#isStarting;
  }

  get isMuted() {
    return this.#isMuted;
  }

  get deviceId() {
    return localStorage.getItem(DEVICE_STORE) ?? "";
  }

  /** Take another microphone, at once if one is open. */
  async choose(deviceId) {
    localStorage.setItem(DEVICE_STORE, deviceId);
    if (!this.isTalking) return;
    await this.microphone.stop();
    await this.startTalking();
  }

  /** Nobody hears: the microphone pauses, and what was not sent is not kept for later. */
  refuse(isRefused) {
    if (isRefused && !this.#isRefused) {
      this.#voxtral.dropAudio();
      this.stopPlaying();
    }
    this.#isRefused = isRefused;
    this.#pause();
  }

  mute(isMuted) {
    this.#isMuted = isMuted;
    this.#pause();
    if (isMuted && this.#isSpeaking()) this.#voxtral.endTurn();
    this.#onChange();
  }

  async startTalking() {
    this.stopPlaying();
    this.#isStarting = true;
    this.#onChange();
    try {
      await this.microphone.start({ deviceId: this.deviceId });
      this.#isMuted = false;
      this.#pause();
      this.onStart();
    } catch (error) {
      this.#onProblem(error.code, error.message);
    }
    this.#isStarting = false;
    this.#onChange();
  }

  async stopTalking() {
    if (!this.isTalking) return;
    await this.microphone.stop();
    this.#stopped();
  }

  /** The key is held, or let go: what is said in between is a turn. */
  async push(isDown) {
    if (isDown === this.#isPushed) return;
    this.#isPushed = isDown;
    if (isDown && !this.isTalking) await this.startTalking();
    else if (isDown) this.mute(false);
    else setTimeout(() => this.mute(true), LAST_CHUNK_MS);
    // It was let go while the browser asked for permission.
    if (isDown && !this.#isPushed && this.isTalking) this.mute(true);
  }

  /** File name → words; empty where the worker has none. */
  async listClips() {
    const response = await fetch(`${CLIPS}index.json`);
    return response.ok ? response.json() : {};
  }

  playClip(name) {
    return this.#play(name, async () => (await fetch(CLIPS + name)).arrayBuffer());
  }

  playFile(file) {
    return this.#play(file.name, () => file.arrayBuffer());
  }

  async #play(name, read) {
    await this.stopTalking();
    this.onStart();
    const isPlaying = this.clips.play(read);
    this.#onChange();
    try {
      await isPlaying;
    } catch (error) {
      this.#onProblem("FILE", `${name} cannot be played: ${error.message}.`);
    }
    this.#onChange();
  }

  stopPlaying() {
    if (!this.isPlaying) return;
    this.clips.stop();
    this.#stopped();
  }

  #stopped() {
    if (this.#isSpeaking()) this.#voxtral.endTurn();
    this.level.clear();
    this.#onChange();
  }

  #pause() {
    this.microphone.isPaused = this.#isMuted || this.#isRefused;
  }
}
