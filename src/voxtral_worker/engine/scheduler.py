"""Decides which sequences run.

Waiting sequences take free places by urgency, then in order of arrival. Sequences that
run are never put back; every one of them makes a token at each step, so nobody starves.
"""

import itertools
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from voxtral_worker.engine.request import Urgency


class Schedulable(Protocol):
    """What the scheduler has to know of a sequence."""

    @property
    def urgency(self) -> int:
        """Lower goes first, as it is now: a speculation that is committed becomes a turn."""

    @property
    def needs_prefill(self) -> bool:
        """Whether part of its prompt is still to be computed."""


S = TypeVar("S", bound=Schedulable)


class Scheduler(Generic[S]):
    """A sequence is waiting, or running, or not here; at most `places` run."""

    def __init__(self, places: int, place: Callable[[S], bool] = lambda _: True) -> None:
        """`place` gives a sequence what it needs to run, or says that it cannot now."""
        self.places = places
        self._place = place
        self._waiting: list[tuple[int, S]] = []
        self._arrivals = itertools.count()
        self.running: list[S] = []

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    def add(self, sequence: S) -> None:
        """Let a sequence wait for its place."""
        self._waiting.append((next(self._arrivals), sequence))

    def admit(self) -> list[S]:
        """Move sequences to free places and return them.

        The head waits until it can be placed, and the others behind it: were they let past,
        a large one might never get its turn. Only a speculation lets others past: it may
        never be needed.
        """
        admitted: list[S] = []
        for entry in self._in_order():
            sequence = entry[1]
            if sequence.urgency == Urgency.SPECULATION and self._is_busy():
                continue
            if len(self.running) >= self._places_for(sequence.urgency):
                break
            if not self._place(sequence):
                break
            self._waiting.remove(entry)
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
        self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]

    def everyone(self) -> list[S]:
        """All sequences that run or wait."""
        return self.running + [sequence for _, sequence in self._in_order()]

    def _in_order(self) -> list[tuple[int, S]]:
        return sorted(self._waiting, key=lambda entry: (entry[1].urgency, entry[0]))

    def _is_busy(self) -> bool:
        """Whether there is too much to do for work that may be thrown away.

        Prompts are the costly part, so a speculation waits for every prompt that is being
        computed; half of the places stay free of it.
        """
        is_full = 2 * len(self.running) >= max(2, self.places)
        return is_full or any(sequence.needs_prefill for sequence in self.running)

    def _places_for(self, urgency: int) -> int:
        # One place is kept for a user who waits: jobs and partials must not fill the house.
        return self.places if urgency == Urgency.TURN else max(1, self.places - 1)
