"""The exchanges of a conversation, and their size in memory."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange
from voxtral_worker.sessions.calling import OpenExchange
from voxtral_worker.sessions.effects import CountCalls, Effect
from voxtral_worker.sessions.memory import bytes_of_exchange


class History:
    """Finished exchanges, the oldest first, and at most one `open` exchange behind them."""

    def __init__(self) -> None:
        # Counts how often the history was cleared. An answer that began in an earlier epoch is
        # not recorded: it belongs to a conversation that was forgotten.
        self.epoch = 0
        # The exchange whose last response called tools, if the client itself asks for the next
        # response once it has the results. None: no such exchange.
        self.open: OpenExchange | None = None
        # Each with its size and its turn's id. None: it came from another worker or a client.
        self._exchanges: deque[tuple[Exchange, int, str | None]] = deque()
        # Size of the finished exchanges. It is read at each message that is sent.
        self._bytes = 0

    def __iter__(self) -> Iterator[Exchange]:
        """The exchanges as they go into the next prompt."""
        for exchange, _, _ in self._exchanges:
            yield exchange
        if self.open is not None:
            yield self.open.closed()

    @property
    def bytes(self) -> int:
        """Size of all exchanges."""
        return self._bytes + (0 if self.open is None else self.open.bytes)

    def append(self, exchange: Exchange, turn_id: str | None = None) -> None:
        """Add a finished exchange."""
        # The engine keeps the embeddings of the sound. Samples are needed again only if it drops
        # those, so they may take less memory and more time to read.
        for part in exchange.user.parts:
            if isinstance(part, Audio):
                part.compact()
        size = bytes_of_exchange(exchange)
        self._exchanges.append((exchange, size, turn_id))
        self._bytes += size

    def extend(self, exchanges: Iterable[Exchange]) -> None:
        """Add finished exchanges, in this order."""
        for exchange in exchanges:
            self.append(exchange)

    def close_open(self, answer: AssistantTurn | None = None) -> list[Effect]:
        """Finish the open exchange, if there is one, with this answer or with none."""
        exchange, self.open = self.open, None
        if exchange is None:
            return []
        self.append(exchange.closed(answer))
        missing = len(exchange.pending.missing)
        return [CountCalls("interrupted", missing)] if missing else []

    def shorten(self, turn_id: str, text: str) -> None:
        """Replace the answer to a turn by the words that were heard; do nothing if it is gone."""
        for index, (exchange, _, own) in enumerate(self._exchanges):
            if own == turn_id:
                heard = AssistantTurn(text=text)
                self._replace(index, dataclasses.replace(exchange, assistant=heard))

    def set_words(self, turn_id: str, words: str) -> None:
        """Add the transcript of a spoken turn; do nothing if it is gone."""
        for index, (exchange, _, own) in enumerate(self._exchanges):
            if own == turn_id:
                user = dataclasses.replace(exchange.user, heard=words)
                self._replace(index, dataclasses.replace(exchange, user=user))

    def has(self, turn_id: str) -> bool:
        """Whether a turn is remembered."""
        return any(own == turn_id for _, _, own in self._exchanges)

    def remove(self, turn_id: str) -> None:
        """Forget a turn and its answer."""
        self._exchanges = deque(entry for entry in self._exchanges if entry[2] != turn_id)
        self._bytes = sum(size for _, size, _ in self._exchanges)

    def forget_oldest(self, exchanges: int) -> None:
        """Forget so many of the oldest exchanges, or all if there are fewer."""
        for _ in range(min(exchanges, len(self._exchanges))):
            self._bytes -= self._exchanges.popleft()[1]

    def clear(self) -> None:
        """Forget everything. A response being made will not be remembered either."""
        self._exchanges.clear()
        self._bytes = 0
        self.open = None
        self.epoch += 1

    def _replace(self, index: int, exchange: Exchange) -> None:
        _, before, turn_id = self._exchanges[index]
        size = bytes_of_exchange(exchange)
        self._exchanges[index] = (exchange, size, turn_id)
        self._bytes += size - before
