// Audio on its way: kept until it is old, so that a lost connection loses no words.
//
// Positions count bytes since the session was created, as the worker does.

const KEPT_BYTES = 30 * 32000; // 30 s

export class Outbox {
  constructor() {
    this.chunks = [];
    this.firstByte = 0;
    this.unsent = 0; // how many of the last chunks have not been sent
  }

  // A new session counts from zero and gets what no other one was sent.
  startOver() {
    this.chunks = this.chunks.slice(this.chunks.length - this.unsent);
    this.firstByte = 0;
  }

  add(chunk) {
    this.chunks.push(chunk);
    this.unsent += 1;
    let kept = this.chunks.reduce((sum, { byteLength }) => sum + byteLength, 0);
    while (kept > KEPT_BYTES) {
      const oldest = this.chunks.shift();
      this.firstByte += oldest.byteLength;
      kept -= oldest.byteLength;
    }
    this.unsent = Math.min(this.unsent, this.chunks.length);
  }

  // The chunks that have not been sent; from now on they count as sent.
  takeUnsent() {
    const chunks = this.chunks.slice(this.chunks.length - this.unsent);
    this.unsent = 0;
    return chunks;
  }

  // The worker has this many bytes: whatever follows is to be sent (again).
  rewind(receivedBytes) {
    while (this.chunks.length && this.firstByte + this.chunks[0].byteLength <= receivedBytes) {
      this.firstByte += this.chunks.shift().byteLength;
    }
    // What was dropped here meanwhile, the worker never counted.
    this.firstByte = receivedBytes;
    this.unsent = this.chunks.length;
  }
}
