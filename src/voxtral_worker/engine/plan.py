"""What the scheduler decides about the next step, as plain data that the runner executes."""

from dataclasses import dataclass

from voxtral_worker.engine.sequence import Sequence


@dataclass(frozen=True)
class Admissions:
    """Sequences that got a place at this step, and those that lost theirs to a turn."""

    admitted: list[Sequence]
    put_back: list[Sequence]


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of a sequence that a step computes.

    A decode is a chunk of one token behind the prompt.
    """

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_decode(self) -> bool:
        """Whether this is the one token that was chosen last."""
        return self.start >= self.sequence.prefill_tokens

    @property
    def wants_logits(self) -> bool:
        """Whether a token is chosen after this chunk.

        Not while more of the prompt follows, or more of an answer that is computed once more.
        """
        return self.stop >= self.sequence.prefill_tokens

    @property
    def ids(self) -> list[int]:
        """The token ids of the chunk."""
        return self.sequence.ids(self.start, self.stop)

    @property
    def positions(self) -> list[int]:
        """The positions of the tokens of the chunk."""
        return self.sequence.positions(self.start, self.stop)

    @property
    def is_weighted(self) -> bool:
        """Whether any token up to the last of the chunk has a weight; see `Layout`."""
        return self.sequence.prompt.weighted_from < self.stop
