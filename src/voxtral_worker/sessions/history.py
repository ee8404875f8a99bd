"""The exchanges of a conversation, and their size in memory."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange
from voxtral_worker.sessions.memory import bytes_of_exchange


class History:
    """Exchanges, the oldest first; `bytes` is their size."""

    def __init__(self) -> None:
        # Each with its size and its turn's id. None: it came from another worker or a client.
        self._exchanges: deque[tuple[Exchange, int, str | None]] = deque()
        self.bytes = 0

    def __iter__(self) -> Iterator[Exchange]:
        return (exchange for exchange, _, _ in self._exchanges)

    def append(self, exchange: Exchange, turn_id: str | None = None) -> None:
        """Add an exchange."""
        # The engine keeps the embeddings of the sound. Samples are needed again only if it drops
        # those, so they may take less memory and more time to read.
        for part in exchange.user.parts:
            if isinstance(part, Audio):
                part.compact()
        size = bytes_of_exchange(exchange)
        self._exchanges.append((exchange, size, turn_id))
        self.bytes += size

    def shorten(self, turn_id: str, text: str) -> None:
        """Replace the answer to a turn by the words that were heard; do nothing if it is gone."""
        for index, (exchange, size, own) in enumerate(self._exchanges):
            if own == turn_id:
                heard = Exchange(exchange.user, AssistantTurn(text=text), exchange.rounds)
                shorter = bytes_of_exchange(heard)
                self._exchanges[index] = (heard, shorter, own)
                self.bytes += shorter - size

    def has(self, turn_id: str) -> bool:
        """Whether a turn is remembered."""
        return any(known == turn_id for _, _, known in self._exchanges)

    def remove(self, turn_id: str) -> None:
        """Forget a turn and its answer."""
        kept = [entry for entry in self._exchanges if entry[2] != turn_id]
        self._exchanges = deque(kept)
        self.bytes = sum(size for _, size, _ in kept)

    def set_words(self, turn_id: str, words: str) -> None:
        """Add the transcript of a spoken turn."""
        for number, (exchange, _, known) in enumerate(self._exchanges):
            if known == turn_id:
                user = dataclasses.replace(exchange.user, heard=words)
                heard = dataclasses.replace(exchange, user=user)
                self._exchanges[number] = (heard, bytes_of_exchange(heard), turn_id)
        self.bytes = sum(size for _, size, _ in self._exchanges)

    def extend(self, exchanges: Iterable[Exchange]) -> None:
        """Add exchanges, in this order."""
        for exchange in exchanges:
            self.append(exchange)

    def forget_oldest(self, exchanges: int) -> None:
        """Forget so many of the oldest exchanges, or all if there are fewer."""
        for _ in range(min(exchanges, len(self._exchanges))):
            self.bytes -= self._exchanges.popleft()[1]

    def clear(self) -> None:
        """Forget everything."""
        self._exchanges.clear()
        self.bytes = 0
