"""The numbered messages of one kind of connection, held so that they can be sent again."""

from collections import deque

from voxtral_worker.sessions.messages import ServerMessage, to_wire

HELD_MESSAGES = 1024


class Line:
    """Sequence numbers rise by exactly one, across all connections of the line."""

    def __init__(self) -> None:
        self.seq = 0
        self._held: deque[tuple[int, str]] = deque(maxlen=HELD_MESSAGES)

    def write(self, message: ServerMessage, timestamp: float) -> str:
        """The wire form of a message; a numbered one gets the next number and is held."""
        if not message.is_numbered:
            return to_wire(message, timestamp)
        self.seq += 1
        text = to_wire(message, timestamp, self.seq)
        self._held.append((self.seq, text))
        return text

    def after(self, last_seq: int) -> tuple[list[str], int]:
        """Messages after a number, unchanged, and how many of them are no longer held."""
        texts = [text for seq, text in self._held if seq > last_seq]
        return texts, max(0, self.seq - last_seq - len(texts))
