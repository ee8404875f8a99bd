"""The numbered messages of one channel, held so that they can be sent again."""

from collections import deque

from voxtral_worker.server.native.messages import Message, to_wire

HELD_MESSAGES = 1024
# A client that claims to have seen more than this beyond what is known here is not believed.
MAX_AHEAD = 10_000


class Numbering:
    """Sequence numbers rise by exactly one, across all connections of the channel."""

    def __init__(self, seq: int | None = None) -> None:
        """`seq`: the last number given away where the channel was before; None: it is new."""
        self.seq = seq or 0
        self._was_elsewhere = seq is not None
        self._held: deque[tuple[int, bytes]] = deque()
        # What the messages held take.
        self.bytes = 0

    def write(self, message: Message, timestamp: float) -> str:
        """The wire form of a message; a numbered one gets the next number and is held."""
        if not message.is_numbered:
            return to_wire(message, timestamp)
        self.seq += 1
        text = to_wire(message, timestamp, self.seq)
        self._held.append((self.seq, text.encode("utf-8", "surrogatepass")))
        self.bytes += len(self._held[-1][1])
        if len(self._held) > HELD_MESSAGES:
            self.drop_oldest()
        return text

    def drop_oldest(self) -> None:
        """Hold one message less."""
        self.bytes -= len(self._held.popleft()[1])

    def clear(self) -> None:
        """Hold nothing any more."""
        self._held.clear()
        self.bytes = 0

    def catch_up(self, last_seq: int) -> None:
        """A channel from elsewhere may have come further than is known here; its client knows."""
        if self._was_elsewhere and not self._held:
            self.seq = max(self.seq, min(last_seq, self.seq + MAX_AHEAD))

    def after(self, last_seq: int) -> tuple[list[str], int]:
        """Messages after a number, unchanged, and how many of them are no longer held."""
        texts = [
            text.decode("utf-8", "surrogatepass") for seq, text in self._held if seq > last_seq
        ]
        return texts, max(0, self.seq - last_seq - len(texts))
