"""Numbers the messages of one channel, and holds them so that they can be sent again."""

from collections import deque

from voxtral_worker.server.native.messages import Message, to_wire

# Older messages are dropped; a client that has missed them learns how many.
HELD_MESSAGES = 1024
# After a takeover, a client's `last_seq` may be ahead of the record in the store, but not by more
# than this.
MAX_AHEAD = 10_000


class Numbering:
    """Sequence numbers rise by exactly one, through all connections of the channel."""

    def __init__(self, seq: int | None = None) -> None:
        """`seq`: the last number that another worker has given; None: the channel is new."""
        self.seq = seq or 0
        self._was_elsewhere = seq is not None
        # Number and JSON of each message, oldest first. Bytes, because a str may take four times
        # as much memory.
        self._held: deque[tuple[int, bytes]] = deque()
        # Size of the held messages.
        self.bytes = 0

    def write(self, message: Message, timestamp: float) -> str:
        """The JSON of a message. A numbered message gets the next number and is held."""
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
        """Drop the oldest message."""
        self.bytes -= len(self._held.popleft()[1])

    def clear(self) -> None:
        """Drop all messages."""
        self._held.clear()
        self.bytes = 0

    def catch_up(self, last_seq: int) -> None:
        """Continue after the client's `last_seq` if that is ahead of the number known here.

        The other worker may have sent messages after it last wrote the record. New messages must
        not get their numbers.
        """
        if self._was_elsewhere and not self._held:
            self.seq = max(self.seq, min(last_seq, self.seq + MAX_AHEAD))

    def after(self, last_seq: int) -> tuple[list[str], int]:
        """The held messages after `last_seq`, unchanged, and how many others were dropped."""
        texts = [
            text.decode("utf-8", "surrogatepass") for seq, text in self._held if seq > last_seq
        ]
        return texts, max(0, self.seq - last_seq - len(texts))
