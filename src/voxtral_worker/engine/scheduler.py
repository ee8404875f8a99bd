"""Decides which sequences run.

Waiting sequences take free places by urgency, then in order of arrival. Sequences that
run are never put back; every one of them makes a token at each step, so nobody starves.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Schedulable(Protocol):
    """What the scheduler has to know of a sequence."""

    @property
    def urgency(self) -> int:
        """Lower goes first; only the most urgent class may take the last place."""

    @property
    def needs_prefill(self) -> bool:
        """Whether part of its prompt is still to be computed."""


S = TypeVar("S", bound=Schedulable)


class Scheduler(Generic[S]):
    """A sequence is waiting, or running, or not here; at most `places` run."""

    def __init__(self, places: int, place: Callable[[S], bool] = lambda _: True) -> None:
        """`place` gives a sequence what it needs to run, or says that it cannot now."""
        self._places = places
        self._place = place
        self._waiting: list[tuple[int, int, S]] = []
        self._arrivals = itertools.count()
        self.running: list[S] = []

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    def add(self, sequence: S) -> None:
        """Let a sequence wait for its place."""
        heapq.heappush(self._waiting, (sequence.urgency, next(self._arrivals), sequence))

    def admit(self) -> list[S]:
        """Move sequences to free places and return them.

        The head waits until it can be placed, and the others behind it: were they let past,
        a large one might never get its turn.
        """
        admitted = []
        while self._waiting and len(self.running) < self._places_for(self._waiting[0][0]):
            if not self._place(self._waiting[0][2]):
                break
            _, _, sequence = heapq.heappop(self._waiting)
            self.running.append(sequence)
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
        if sequence in self.running:
            self.running.remove(sequence)
            return
        self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
        heapq.heapify(self._waiting)

    def everyone(self) -> list[S]:
        """All sequences that run or wait."""
        return self.running + [entry[2] for entry in sorted(self._waiting)]

    def _places_for(self, urgency: int) -> int:
        # One place is kept for a user who waits: jobs and partials must not fill the house.
        return self._places if urgency == 0 else max(1, self._places - 1)
