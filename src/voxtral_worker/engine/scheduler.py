"""Decides which sequences run.

Waiting sequences take free places by urgency, then in order of arrival. Whoever runs makes a
token at each step. Work that nobody speaks for, jobs and partial transcripts, gets at most
half of the blocks of KV cache, and gives way to a turn that finds no place: it waits again,
and goes on later from where it was.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from voxtral_worker.engine.request import Urgency

# After so many times it stays until it is done, or steady talk would keep it from ever ending.
MOST_TIMES_PUT_BACK = 3
UNLIMITED = 1 << 62


class Schedulable(Protocol):
    """What the scheduler has to know of a sequence."""

    @property
    def urgency(self) -> int:
        """Lower goes first, as it is now: a speculation that is committed becomes a turn."""

    @property
    def needs_prefill(self) -> bool:
        """Whether part of its prompt is still to be computed."""

    @property
    def blocks_needed(self) -> int:
        """Blocks of KV cache that it holds for as long as it runs; never changes."""


S = TypeVar("S", bound=Schedulable)


@dataclass(eq=False)
class _Entry(Generic[S]):
    sequence: S
    arrival: int
    times_put_back: int = 0

    @property
    def is_background(self) -> bool:
        return self.sequence.urgency >= Urgency.JOB


class Scheduler(Generic[S]):
    """A sequence is waiting, or running, or not here.

    At most `places` run; together they hold at most `blocks` blocks, the background at most
    half of these.
    """

    def __init__(
        self,
        places: int,
        blocks: int = UNLIMITED,
        place: Callable[[S], None] = lambda _: None,
        put_back: Callable[[S], None] = lambda _: None,
    ) -> None:
        """`place` gives a sequence the blocks it needs; `put_back` takes them away again."""
        self.places = places
        self.background_blocks = blocks // 2
        self._blocks = blocks
        self._place = place
        self._put_back = put_back
        self._arrivals = itertools.count()
        self._waiting: list[_Entry[S]] = []
        self._running: list[_Entry[S]] = []

    @property
    def running(self) -> list[S]:
        """Those that run, in the order in which they were admitted."""
        return [entry.sequence for entry in self._running]

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    def can_ever_run(self, sequence: S) -> bool:
        """Whether it would be admitted if nobody else were here."""
        is_background = sequence.urgency >= Urgency.JOB
        most = self.background_blocks if is_background else self._blocks
        return sequence.blocks_needed <= most

    def add(self, sequence: S) -> None:
        """Let a sequence wait for its place."""
        self._waiting.append(_Entry(sequence, next(self._arrivals)))

    def admit(self) -> list[S]:
        """Move sequences to free places and return them.

        The head waits until it can be placed, and the others behind it: were they let past,
        a large one might never get its turn. Only a speculation lets others past: it may
        never be needed.
        """
        admitted: list[S] = []
        # What is put back on the way is not in this list, and has to wait for the next call.
        for entry in self._in_order():
            sequence = entry.sequence
            if sequence.urgency == Urgency.SPECULATION and self._is_busy():
                continue
            if not self._has_room(entry):
                break
            self._place(sequence)
            self._waiting.remove(entry)
            self._running.append(entry)
            admitted.append(sequence)
        return admitted

    def prefilling(self) -> list[S]:
        """The running sequences whose prompt goes on: the most urgent first, then the oldest."""
        waiting = [sequence for sequence in self.running if sequence.needs_prefill]
        return sorted(waiting, key=lambda sequence: sequence.urgency)

    def decoding(self) -> list[S]:
        """The running sequences that make a token at this step."""
        return [sequence for sequence in self.running if not sequence.needs_prefill]

    def release(self, sequence: S) -> None:
        """Give a place back; also takes a sequence out of the waiting ones."""
        self._running = [entry for entry in self._running if entry.sequence is not sequence]
        self._waiting = [entry for entry in self._waiting if entry.sequence is not sequence]

    def everyone(self) -> list[S]:
        """All sequences that run or wait."""
        return self.running + [entry.sequence for entry in self._in_order()]

    def _in_order(self) -> list[_Entry[S]]:
        return sorted(self._waiting, key=lambda entry: (entry.sequence.urgency, entry.arrival))

    def _is_busy(self) -> bool:
        """Whether there is too much to do for work that may be thrown away.

        Prompts are the costly part, so a speculation waits for every prompt that is being
        computed; half of the places stay free of it.
        """
        is_full = 2 * len(self._running) >= max(2, self.places)
        return is_full or any(sequence.needs_prefill for sequence in self.running)

    def _has_room(self, entry: _Entry[S]) -> bool:
        """Whether it can be placed now; for a turn, room is made."""
        needed = entry.sequence.blocks_needed
        if entry.sequence.urgency == Urgency.TURN:
            return self._make_room(needed)
        if entry.is_background:
            held = sum(e.sequence.blocks_needed for e in self._running if e.is_background)
            if held + needed > self.background_blocks:
                return False
        # One place is kept for a user who waits: others must not fill the house.
        places = max(1, self.places - 1)
        return len(self._running) < places and needed <= self._free_blocks()

    def _make_room(self, needed: int) -> bool:
        """Put back as many as it takes, the youngest first; none if all were not enough."""
        places, blocks = self.places - len(self._running), self._free_blocks()
        leaving: list[_Entry[S]] = []
        for entry in sorted(self._running, key=lambda entry: -entry.arrival):
            if places and needed <= blocks:
                break
            if entry.is_background and entry.times_put_back < MOST_TIMES_PUT_BACK:
                leaving.append(entry)
                places += 1
                blocks += entry.sequence.blocks_needed
        if not places or needed > blocks:
            return False
        for entry in leaving:
            self._put_back(entry.sequence)
            entry.times_put_back += 1
            self._running.remove(entry)
            self._waiting.append(entry)
        return True

    def _free_blocks(self) -> int:
        return self._blocks - sum(sequence.blocks_needed for sequence in self.running)
