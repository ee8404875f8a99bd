"""The numbered messages of one kind of connection, held so that they can be sent again."""

from collections import deque

from voxtral_worker.sessions.messages import ServerMessage, to_wire

HELD_MESSAGES = 1024


class Line:
    """Sequence numbers rise by exactly one, across all connections of the line."""

    def __init__(self, seq: int | None = None) -> None:
        """`seq`: the last number given away where the line was before; None: it is new."""
        self.seq = seq or 0
        self._was_elsewhere = seq is not None
        self._held: deque[tuple[int, str]] = deque(maxlen=HELD_MESSAGES)

    def write(self, message: ServerMessage, timestamp: float) -> str:
        """The wire form of a message; a numbered one gets the next number and is held."""
        if not message.is_numbered:
            return to_wire(message, timestamp)
        self.seq += 1
        text = to_wire(message, timestamp, self.seq)
        self._held.append((self.seq, text))
        return text

    def catch_up(self, last_seq: int) -> None:
        """A line from elsewhere may have come further than is known here; its client knows."""
        if self._was_elsewhere and not self._held:
            self.seq = max(self.seq, last_seq)

    def after(self, last_seq: int) -> tuple[list[str], int]:
        """Messages after a number, unchanged, and how many of them are no longer held."""
        texts = [text for seq, text in self._held if seq > last_seq]
        return texts, max(0, self.seq - last_seq - len(texts))
