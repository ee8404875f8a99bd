// What was sent and may have to be sent again, in the order in which it was given.
//
// The worker takes audio and messages in this order. A resumed session says how many bytes of
// audio it has taken; what stands before the last of them was taken too. A text is held until a
// message with its request_id comes back, since the worker may have refused it.

const MOST_HELD_BYTES = 30 * 32000; // 30 s of 16 kHz audio
const MOST_HELD_MESSAGES = 1024;
// What is larger is refused without its request_id.
const MOST_MESSAGE_BYTES = 1 << 20;
// What the worker says once it has done each of these.
const ANSWERS = {
  config_updated: "config_update",
  history_cleared: "clear_history",
  cancelled: "cancel",
};

export class Journal {
  #entries = []; // { chunk } or { message, wire, kind, requestId }; all with isSent, `end` once sent
  #sentBytes = 0; // audio of this session
  #heldBytes = 0;
  #isInexact = false; // the worker has counted less than was sent

  /** Hold one chunk of audio; returns how many bytes that were never sent had to give way. */
  addAudio(chunk) {
    this.#entries.push({ chunk, isSent: false });
    this.#heldBytes += chunk.byteLength;
    let lostBytes = 0;
    while (this.#heldBytes > MOST_HELD_BYTES) {
      const oldest = this.#entries.findIndex((entry) => entry.chunk);
      const [{ chunk: dropped, isSent }] = this.#entries.splice(oldest, 1);
      this.#heldBytes -= dropped.byteLength;
      if (!isSent) lostBytes += dropped.byteLength;
    }
    return lostBytes;
  }

  /** Hold a message. Throws an Error where it cannot be held. */
  addMessage(message) {
    const requestId = message.request_id;
    const waiting = this.#entries.filter((entry) => entry.requestId !== undefined);
    if (requestId !== undefined && waiting.some((entry) => entry.requestId === requestId)) {
      throw new Error(`request_id "${requestId}" belongs to a text that is being answered`);
    }
    if (waiting.length >= MOST_HELD_MESSAGES) {
      throw new Error(`${MOST_HELD_MESSAGES} texts wait for the worker already`);
    }
    const wire = JSON.stringify(message);
    if (wire.length > MOST_MESSAGE_BYTES) {
      throw new Error(`a message has ${wire.length} characters, but may have ${MOST_MESSAGE_BYTES}`);
    }
    const kind = message.control_type ?? message.type;
    this.#entries.push({ message, wire, kind, requestId, isSent: false });
    // The oldest of so many controls has arrived, or the connection is known to be lost.
    const controls = this.#entries.filter((entry) => entry.wire && entry.requestId === undefined);
    if (controls.length > MOST_HELD_MESSAGES) this.#remove(controls[0]);
  }

  /** What has not been sent yet, in order; from now on it counts as sent. */
  takeUnsent() {
    const unsent = this.#entries.filter((entry) => !entry.isSent);
    for (const entry of unsent) {
      entry.isSent = true;
      if (entry.chunk) {
        this.#sentBytes += entry.chunk.byteLength;
        entry.end = this.#sentBytes;
      }
    }
    return unsent;
  }

  /** Let go of what a message of the worker answers, and of the controls before it. */
  take(message) {
    const kind = ANSWERS[message.status];
    const number = this.#entries.findIndex(
      (entry) =>
        entry.isSent &&
        entry.wire &&
        ((message.request_id !== undefined && entry.requestId === message.request_id) ||
          (kind !== undefined && entry.kind === kind)),
    );
    if (number < 0) return;
    // An error may overtake what was sent before it; all else keeps the order.
    const answered = this.#entries[number];
    const isInOrder = message.type !== "error";
    const isDone = (entry) =>
      isInOrder && entry.isSent && entry.wire && entry.requestId === undefined;
    this.#entries = this.#entries.filter(
      (entry, at) => entry !== answered && !(at < number && isDone(entry)),
    );
  }

  /**
   * A resumed session has taken so much audio: what follows is to be sent, perhaps again. Returns how
   * many bytes of it are not held any more.
   */
  rewind(receivedBytes) {
    const held = this.#entries.filter((entry) => entry.chunk && entry.isSent);
    const heldFrom = held.length ? held[0].end - held[0].chunk.byteLength : this.#sentBytes;
    const lastTaken = this.#entries.findLastIndex(
      (entry) => entry.chunk && entry.isSent && entry.end <= receivedBytes,
    );
    this.#entries = this.#entries.filter(
      (entry, at) => at > lastTaken || entry.requestId !== undefined,
    );
    for (const entry of this.#entries) {
      const start = entry.end - entry.chunk?.byteLength;
      if (start < receivedBytes) entry.chunk = entry.chunk.slice(receivedBytes - start);
      entry.isSent = false;
      delete entry.end;
    }
    this.#heldBytes = this.#sum();
    this.#sentBytes = receivedBytes;
    const lostBytes = this.#isInexact ? 0 : Math.max(0, heldFrom - receivedBytes);
    this.#isInexact = false;
    return lostBytes;
  }

  /** Over a limit the worker drops audio that it does not count: none of it can be sent again. */
  forgetAudio() {
    this.#entries = this.#entries.filter((entry) => !(entry.chunk && entry.isSent));
    this.#heldBytes = this.#sum();
    this.#isInexact = true;
  }

  /** Hold no text any more that was sent; returns their request_ids. */
  giveUpTexts() {
    const lost = this.#entries.filter((entry) => entry.isSent && entry.requestId !== undefined);
    for (const entry of lost) this.#remove(entry);
    return lost.map(({ requestId }) => requestId);
  }

  /** A new session counts from zero, and gets the audio and the texts that no other one was sent. */
  startOver() {
    this.#entries = this.#entries.filter(
      (entry) => !entry.isSent && (entry.chunk || entry.requestId !== undefined),
    );
    this.#heldBytes = this.#sum();
    this.#sentBytes = 0;
  }

  /** Let go of audio that was not sent, as of somebody who could not be heard. */
  dropAudio() {
    this.#entries = this.#entries.filter((entry) => !entry.chunk || entry.isSent);
    this.#heldBytes = this.#sum();
  }

  #remove(entry) {
    this.#entries.splice(this.#entries.indexOf(entry), 1);
  }

  #sum() {
    return this.#entries.reduce((sum, { chunk }) => sum + (chunk?.byteLength ?? 0), 0);
  }
}
