"""What a session holds in memory, under one bound.

What its client has said is held until it is answered or forgotten, so what would not fit is
refused. Messages that wait to be asked for again give way, the oldest first. Room for an answer
is set aside before the engine is asked, so nothing that it says goes beyond the bound.

Embeddings of audio are not counted here: the engine may drop them at any time, and has a bound
for those of all sessions.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Protocol

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, Round, UserTurn
from voxtral_worker.engine.tools import Tool
from voxtral_worker.errors import RateLimited

MAX_BYTES = 64 << 20
# Kept free for what has come and is not read yet, and for messages to be asked for again.
INBOX_BYTES = 2 << 20
SPARE_SHARE = 8
# A delivered token: its number, and its text in a piece and in the whole.
TOKEN_BYTES = 256
TOKEN_ID_BYTES = 36
# Who seeds a conversation leaves room for an answer to it.
LONGEST_ANSWER_BYTES = 4096 * TOKEN_BYTES


class Spare(Protocol):
    """Something that can do with less."""

    @property
    def bytes(self) -> int:
        """What it takes now."""

    def drop_oldest(self) -> None:
        """Take less; only called while `bytes` is more than 0."""


class SessionMemory:
    """Never more than `limit_bytes`, as long as everything taken in was given room before."""

    def __init__(self, limit_bytes: int = MAX_BYTES) -> None:
        self.limit_bytes = limit_bytes
        # Of what waits in the inbox, which its owner keeps within INBOX_BYTES.
        self.inbox_bytes = 0
        self._holders: list[Callable[[], int]] = []
        self._spares: list[Callable[[], Spare]] = []

    def hold(self, size: Callable[[], int]) -> None:
        """Count what somebody holds, in bytes at any moment."""
        self._holders.append(size)

    def hold_spare(self, spare: Callable[[], Spare]) -> None:
        """Count what gives way to everything else."""
        self._spares.append(spare)

    @property
    def bytes(self) -> int:
        """What is held now, with what is set aside for answers."""
        spare = sum(spare().bytes for spare in self._spares)
        return self.inbox_bytes + self._firm() + spare

    def has_room(self, size: int) -> bool:
        """Whether so many bytes may be taken in; room is made of what is spare."""
        most = self.limit_bytes - INBOX_BYTES
        if self._firm() + size > most - self.limit_bytes // SPARE_SHARE:
            return False
        self._shrink(most - size)
        return True

    def require(self, size: int) -> None:
        """Raises RateLimited when so many bytes have no room."""
        if not self.has_room(size):
            raise RateLimited(
                f"the session is full: it holds {self._firm()} bytes of texts and audio and may "
                f"hold {self.limit_bytes} with its messages; wait for its answers, clear its "
                "history or begin another session",
                retry_after_s=1.0,
            )

    def fit(self) -> None:
        """Let go of what is spare beyond the bound."""
        self._shrink(self.limit_bytes - INBOX_BYTES)

    def _firm(self) -> int:
        return sum(size() for size in self._holders)

    def _shrink(self, most: int) -> None:
        spares = [spare() for spare in self._spares]
        over = self._firm() + sum(spare.bytes for spare in spares) - most
        while over > 0:
            largest = max(spares, key=lambda spare: spare.bytes, default=None)
            if largest is None or not largest.bytes:
                return
            before = largest.bytes
            largest.drop_oldest()
            over -= before - largest.bytes


def bytes_of_text(text: str | None) -> int:
    """What a text takes: Python keeps one to four bytes a character."""
    return sys.getsizeof(text) if text else 0


def bytes_of_parts(parts: Iterable[str | Audio]) -> int:
    """What texts and sound of a turn take."""
    return sum(part.nbytes if isinstance(part, Audio) else bytes_of_text(part) for part in parts)


def bytes_of_turn(turn: UserTurn) -> int:
    """What the user's side of an exchange takes."""
    return bytes_of_parts(turn.parts) + bytes_of_text(turn.heard)


def bytes_of_tools(tools: Iterable[Tool]) -> int:
    """What definitions of tools take."""
    return sum(bytes_of_text(tool.description + tool.parameters) for tool in tools)


def bytes_of_answer(answer: AssistantTurn) -> int:
    """What the words of the assistant take."""
    said = bytes_of_text(answer.text) + bytes_of_text(answer.words)
    return said + TOKEN_ID_BYTES * len(answer.token_ids)


def bytes_of_round(made: Round) -> int:
    """What calls of tools and their results take."""
    calls = sum(bytes_of_text(call.name + call.arguments) for call in made.calls)
    results = sum(bytes_of_text(result.content) for result in made.results)
    return bytes_of_answer(made.said) + calls + results


def bytes_of_exchange(exchange: Exchange) -> int:
    """What a turn, its rounds of tools and its answer take in a history."""
    rounds = sum(bytes_of_round(made) for made in exchange.rounds)
    return bytes_of_turn(exchange.user) + rounds + bytes_of_answer(exchange.assistant)
