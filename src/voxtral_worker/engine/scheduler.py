"""Decides which sequences run, which blocks of KV cache they hold, and what a step computes.

Waiting sequences take free places by urgency, then in order of arrival. Every running sequence
makes one token a step. Work that no listener waits for, jobs and partial transcripts, gets at
most half of the blocks. A turn that finds no place puts such work back: it waits again, and
later continues where it was.

This module is pure: it knows no tensor, no clock and no caller.
"""

import itertools
from collections.abc import Container
from dataclasses import dataclass

from voxtral_worker.engine.budget import MOST_ROWS, PrefillBudget
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache
from voxtral_worker.engine.plan import Admissions, Chunk
from voxtral_worker.engine.request import Urgency
from voxtral_worker.engine.sequence import Sequence

# A sequence that was put back so often stays, or steady talk would keep it from ever ending.
MOST_TIMES_PUT_BACK = 3


@dataclass(eq=False)
class _Entry:
    """A sequence in the scheduler, with its place in the order of arrival."""

    sequence: Sequence
    arrival: int
    times_put_back: int = 0

    @property
    def is_background(self) -> bool:
        return self.sequence.urgency >= Urgency.JOB


class Scheduler:
    """Owns the KV cache's blocks. A sequence is waiting, or running, or not here.

    At most `places` sequences run. A running sequence holds all the blocks that it may ever
    need, so no step fails for want of blocks. The background holds at most half of the blocks.
    """

    def __init__(
        self,
        cache: KvCache,
        places: int,
        context_per_row: float = float("inf"),
        most_rows: int = MOST_ROWS,
    ) -> None:
        """`context_per_row`: see `PrefillBudget`. `most_rows`: prompt tokens of one step."""
        # Who holds which block of the KV cache.
        self.cache = cache
        # Sequences that run at most, and prompt tokens of one step at most.
        self.places = places
        self.most_rows = most_rows
        # Tokens of context that cost as much time as one row: see `PrefillBudget`.
        self._context_per_row = context_per_row
        # Numbers sequences as they come. One that is put back keeps its number.
        self._arrivals = itertools.count()
        # Waiting ones as they came, running ones as they were admitted.
        self._waiting: list[_Entry] = []
        self._running: list[_Entry] = []

    @property
    def running(self) -> list[Sequence]:
        """The running sequences, in the order in which they were admitted."""
        return [entry.sequence for entry in self._running]

    @property
    def waiting(self) -> int:
        """How many sequences wait for a place."""
        return len(self._waiting)

    def everyone(self) -> list[Sequence]:
        """All sequences: first those that run, then those that wait, the next one first."""
        return self.running + [entry.sequence for entry in self._in_order()]

    def most_tokens(self, urgency: Urgency) -> int:
        """Tokens of the longest sequence, prompt and answer, that can ever run."""
        return self._most_blocks(urgency) * BLOCK_TOKENS

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its place. Raises ValueError where it could never run."""
        if sequence.most_tokens > self.most_tokens(sequence.urgency):
            raise ValueError(f"the KV cache cannot hold {sequence.most_tokens} tokens")
        self._waiting.append(_Entry(sequence, next(self._arrivals)))

    def admit(self, now_s: float) -> Admissions:
        """Move sequences to free places and give them blocks; `now_s` is the monotonic time.

        The head of the queue gets the next place: otherwise small sequences could keep a large
        one waiting without end. Only a speculation lets others go first, because its answer may
        never be needed.
        """
        moved = Admissions([], [])
        # A sequence that is put back on the way is not in this list: it waits for the next call.
        for entry in self._in_order():
            sequence = entry.sequence
            if sequence.urgency == Urgency.SPECULATION and self._is_busy():
                continue
            if not self._has_room(entry, moved.put_back):
                break
            self._place(sequence)
            # One that was put back keeps the time when it was admitted first.
            sequence.admitted_s = now_s if sequence.admitted_s is None else sequence.admitted_s
            self._waiting.remove(entry)
            self._running.append(entry)
            moved.admitted.append(sequence)
        return moved

    def pieces_to_encode(self, encoded: Container[Audio]) -> list[Audio]:
        """Audio that running sequences wait for, the most urgent first; some of it repeatedly.

        `encoded` contains the pieces whose embeddings exist.
        """
        by_urgency = sorted(self.running, key=lambda sequence: sequence.urgency)
        return [piece for sequence in by_urgency for piece in sequence.waiting_audio(encoded)]

    def plan(self, encoded: Container[Audio]) -> list[Chunk]:
        """What the next step computes: all decodes, the shortest first, and parts of prompts.

        Prompts continue by urgency, the oldest first, within the budget of a step. A prompt whose
        audio is not among the `encoded` pieces waits.
        """
        decoding = [sequence for sequence in self.running if not sequence.needs_prefill]
        decoding.sort(key=lambda sequence: sequence.stored)
        chunks = [Chunk(each, each.stored, each.stored + 1) for each in decoding]
        prefilling = [sequence for sequence in self.running if sequence.needs_prefill]
        prefilling.sort(key=lambda sequence: sequence.urgency)
        most_urgent = min((sequence.urgency for sequence in self.running), default=Urgency.TURN)
        budget = PrefillBudget(self._context_per_row, self.most_rows)
        for sequence in prefilling:
            if sequence.waiting_audio(encoded):
                continue
            rest = sequence.prefill_tokens - sequence.stored
            is_urgent = sequence.urgency == most_urgent
            rows = budget.take(rest, sequence.stored, is_urgent=is_urgent)
            if rows:
                chunks.append(Chunk(sequence, sequence.stored, sequence.stored + rows))
        return chunks

    def release(self, sequence: Sequence) -> int | None:
        """Take a sequence out, whether it waits or runs, and take its blocks back.

        Its owner keeps the tokens that are vouched for. Returns their number; None where the
        sequence holds no blocks or has no owner.
        """
        self._running = [entry for entry in self._running if entry.sequence is not sequence]
        self._waiting = [entry for entry in self._waiting if entry.sequence is not sequence]
        if not sequence.blocks:
            return None
        keys = sequence.stored_keys()[: sequence.vouched]
        self.cache.release(sequence.owner, sequence.leave(), keys)
        return None if sequence.owner is None else len(keys)

    def forget(self, owner: str) -> None:
        """Drop what is kept for an owner, and keep nothing of what it still has here."""
        self.cache.forget(owner)
        for sequence in self.everyone():
            if sequence.owner == owner:
                # No next turn follows that blocks could be kept for.
                sequence.owner = None

    def _in_order(self) -> list[_Entry]:
        return sorted(self._waiting, key=lambda entry: (entry.sequence.urgency, entry.arrival))

    def _is_busy(self) -> bool:
        """Whether there is too much to do for work that may be thrown away.

        Prompts are the costly part, so a speculation waits for every prompt that is being
        computed. Half of the places stay free of speculations.
        """
        is_full = 2 * len(self._running) >= max(2, self.places)
        return is_full or any(sequence.needs_prefill for sequence in self.running)

    def _has_room(self, entry: _Entry, put_back: list[Sequence]) -> bool:
        """Whether a sequence can be placed now. For a turn, room is made by putting others back."""
        needed = entry.sequence.blocks_needed
        if entry.sequence.urgency == Urgency.TURN:
            return self._make_room(needed, put_back)
        if entry.is_background:
            held = sum(e.sequence.blocks_needed for e in self._running if e.is_background)
            if held + needed > self._most_blocks(entry.sequence.urgency):
                return False
        # The last place is kept for a turn.
        places = max(1, self.places - 1)
        return len(self._running) < places and needed <= self.cache.available

    def _make_room(self, needed: int, put_back: list[Sequence]) -> bool:
        """Put back as many as it takes, the youngest first; none if all are not enough."""
        places, blocks = self.places - len(self._running), self.cache.available
        leaving: list[_Entry] = []
        for entry in sorted(self._running, key=lambda entry: -entry.arrival):
            if places > 0 and needed <= blocks:
                break
            if entry.is_background and entry.times_put_back < MOST_TIMES_PUT_BACK:
                leaving.append(entry)
                places += 1
                blocks += entry.sequence.blocks_needed
        if places <= 0 or needed > blocks:
            return False
        for entry in leaving:
            # Nothing is kept for its owner: the turn may need every block.
            self.cache.release(None, entry.sequence.leave())
            entry.times_put_back += 1
            self._running.remove(entry)
            self._waiting.append(entry)
            put_back.append(entry.sequence)
        return True

    def _place(self, sequence: Sequence) -> None:
        """Give a sequence its blocks, and with them its owner's kept prefix."""
        admission = self.cache.admit(sequence.owner, sequence.prompt.keys, sequence.most_tokens)
        assert admission is not None, "`_has_room` has counted the blocks"
        sequence.place(admission)

    def _most_blocks(self, urgency: Urgency) -> int:
        """Blocks that one sequence, or all of the background together, may hold."""
        return self.cache.total // 2 if urgency >= Urgency.JOB else self.cache.total
