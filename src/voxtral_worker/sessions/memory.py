"""One limit for all that a session holds in memory.

- Input of the client is held until it is answered or forgotten. Input that does not fit is
  refused.
- Messages that are kept in case a client resumes are spare: they give way, the oldest first.
- Room for an answer is set aside before the engine is asked, so that the answer always fits.

Embeddings of audio are not counted here: the engine may drop them at any time, and has a limit
for those of all sessions.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Protocol

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, Round, UserTurn
from voxtral_worker.engine.tools import Tool
from voxtral_worker.errors import RateLimited

MAX_BYTES = 64 << 20
# Always kept free for messages in the inbox, which arrive before anything can refuse them.
INBOX_BYTES = 2 << 20
# An eighth of the limit is kept free for messages that a client may ask for again.
SPARE_SHARE = 8
# Size of a delivered token: its id, its text in a delta, and its text in the whole answer.
TOKEN_BYTES = 256
# A Python int (28 bytes) and its place in a list (8 bytes).
TOKEN_ID_BYTES = 36
# Input that starts no answer yet must leave room for the longest answer: `max_length` is at most
# 4,096 tokens.
LONGEST_ANSWER_BYTES = 4096 * TOKEN_BYTES


class Spare(Protocol):
    """Holds something that may be dropped to make room."""

    @property
    def bytes(self) -> int:
        """Its size now."""

    def drop_oldest(self) -> None:
        """Drop its oldest part; only called while `bytes` is more than 0."""


class SessionMemory:
    """Adds up what the parts of a session hold, and makes room by dropping what is spare.

    The sum never exceeds `limit_bytes` if every part asks for room before it takes something.
    """

    def __init__(self, limit_bytes: int = MAX_BYTES) -> None:
        self.limit_bytes = limit_bytes
        # Size of the messages in the inbox, which its owner keeps within INBOX_BYTES.
        self.inbox_bytes = 0
        self._holders: list[Callable[[], int]] = []
        self._spares: list[Callable[[], Spare]] = []

    def hold(self, size: Callable[[], int]) -> None:
        """Count a part's bytes; `size` is called each time they are needed."""
        self._holders.append(size)

    def hold_spare(self, spare: Callable[[], Spare]) -> None:
        """Count a part that gives way to everything else."""
        self._spares.append(spare)

    @property
    def bytes(self) -> int:
        """Bytes held now, with the room that is set aside for answers."""
        spare = sum(spare().bytes for spare in self._spares)
        return self.inbox_bytes + self._firm() + spare

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes may be held. Drops spare messages to make room."""
        most = self.limit_bytes - INBOX_BYTES
        if self._firm() + size > most - self.limit_bytes // SPARE_SHARE:
            return False
        self._shrink(most - size)
        return True

    def require(self, size: int) -> None:
        """Raises RateLimited when `size` more bytes have no room."""
        if not self.has_room(size):
            raise RateLimited(
                f"the session is full: it holds {self._firm()} bytes of texts and audio and may "
                f"hold {self.limit_bytes} with its messages; wait for its answers, clear its "
                "history or begin another session",
                retry_after_s=1.0,
            )

    def fit(self) -> None:
        """Drop spare messages until the limit is kept."""
        self._shrink(self.limit_bytes - INBOX_BYTES)

    def _firm(self) -> int:
        return sum(size() for size in self._holders)

    def _shrink(self, most: int) -> None:
        spares = [spare() for spare in self._spares]
        over = self._firm() + sum(spare.bytes for spare in spares) - most
        # Take from the largest, so that one busy channel does not cost another its few messages.
        while over > 0:
            largest = max(spares, key=lambda spare: spare.bytes, default=None)
            if largest is None or not largest.bytes:
                return
            before = largest.bytes
            largest.drop_oldest()
            over -= before - largest.bytes


def bytes_of_text(text: str | None) -> int:
    """Size of a text: Python uses one to four bytes for each character."""
    return sys.getsizeof(text) if text else 0


def bytes_of_parts(parts: Iterable[str | Audio]) -> int:
    """Size of the texts and the audio of a turn."""
    return sum(part.nbytes if isinstance(part, Audio) else bytes_of_text(part) for part in parts)


def bytes_of_turn(turn: UserTurn) -> int:
    """Size of the user's side of an exchange."""
    return bytes_of_parts(turn.parts) + bytes_of_text(turn.heard)


def bytes_of_tools(tools: Iterable[Tool]) -> int:
    """Size of tool definitions."""
    return sum(bytes_of_text(tool.description + tool.parameters) for tool in tools)


def bytes_of_answer(answer: AssistantTurn) -> int:
    """Size of the assistant's words."""
    said = bytes_of_text(answer.text) + bytes_of_text(answer.words)
    return said + TOKEN_ID_BYTES * len(answer.token_ids)


def bytes_of_round(made: Round) -> int:
    """Size of tool calls and their results."""
    calls = sum(bytes_of_text(call.name + call.arguments) for call in made.calls)
    results = sum(bytes_of_text(result.content) for result in made.results)
    return bytes_of_answer(made.said) + calls + results


def bytes_of_exchange(exchange: Exchange) -> int:
    """Size of a turn, its rounds of tool calls and its answer in the history."""
    rounds = sum(bytes_of_round(made) for made in exchange.rounds)
    return bytes_of_turn(exchange.user) + rounds + bytes_of_answer(exchange.assistant)
