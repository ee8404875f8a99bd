"""Holds the blocks of every running sequence as tensors, which the runner reads at each step."""

from dataclasses import dataclass

import torch

from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.plan import Chunk
from voxtral_worker.engine.sequence import Sequence


@dataclass(frozen=True)
class _Table:
    """Blocks, int64 [blocks], and their slots, int64 [blocks * 16], both on the host."""

    blocks: torch.Tensor
    slots: torch.Tensor


class BlockTables:
    """A table for each sequence that runs, found by its id.

    Made once at the admission: to make a tensor of a few hundred numbers for every sequence at
    every step would take about as long as a small step.
    """

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}

    def place(self, sequence: Sequence) -> None:
        """Note the blocks that a sequence was given."""
        blocks = torch.tensor(sequence.blocks, dtype=torch.long)
        slots = (blocks[:, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).flatten()
        self._tables[sequence.sequence_id] = _Table(blocks, slots)

    def release(self, sequence_id: int) -> None:
        """Drop the table of a sequence that runs no more; one without a table is ignored."""
        self._tables.pop(sequence_id, None)

    def blocks(self, chunk: Chunk) -> torch.Tensor:
        """Blocks of all tokens up to the last of a chunk, int64 [width]."""
        return self._tables[chunk.sequence.sequence_id].blocks[: blocks_for(chunk.stop)]

    def slots(self, chunk: Chunk) -> torch.Tensor:
        """Slots of the tokens of a chunk, int64 [rows]."""
        return self._tables[chunk.sequence.sequence_id].slots[chunk.start : chunk.stop]

    def new_blocks(self, sequence: Sequence) -> torch.Tensor:
        """Blocks of a sequence that hold none of its tokens yet, int64 [n]."""
        return self._tables[sequence.sequence_id].blocks[blocks_for(sequence.stored) :]

    def new_slots(self, sequence: Sequence) -> torch.Tensor:
        """Slots of the tokens that a sequence has yet to compute, answer included, int64 [n]."""
        return self._tables[sequence.sequence_id].slots[sequence.stored :]
