"""Packs the tokens of many sequences into one batch without padding."""

from dataclasses import dataclass

import torch

from voxtral_worker.engine.attention import GatheredRows, PagedBatch, PrefillRows
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.sequence import Sequence

# Sequences whose lengths differ by more are gathered apart: padding costs, so do calls.
MOST_PADDING = 1.5


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of a sequence that a step computes.

    A decode is a chunk of one token behind the prompt. The logits after the last token are
    wanted unless more of the prompt follows.
    """

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_decode(self) -> bool:
        """Whether this is one token that was generated."""
        return self.start >= len(self.sequence.prompt.ids)

    @property
    def wants_logits(self) -> bool:
        """Whether a token is chosen after this chunk."""
        return self.stop >= len(self.sequence.prompt.ids)

    @property
    def blocks(self) -> torch.Tensor:
        """Blocks of all tokens up to its last, int64 [width]."""
        return self.sequence.block_ids[: blocks_for(self.stop)]


def pack(chunks: list[Chunk], keys: list[torch.Tensor], values: list[torch.Tensor]) -> PagedBatch:
    """The batch of these chunks: decodes first, the shorter before the longer."""
    device = keys[0].device
    decodes = sum(chunk.is_decode for chunk in chunks)
    slots = torch.cat([c.sequence.slots[c.start : c.stop] for c in chunks]).to(device)
    prefills, row_at = [], decodes
    for chunk in chunks[decodes:]:
        rows = chunk.stop - chunk.start
        mask = None
        if chunk.start:
            mask = torch.ones(rows, chunk.stop, dtype=torch.bool, device=device)
            mask = mask.tril(chunk.start)
        blocks = chunk.blocks.to(device)
        prefills.append(PrefillRows(row_at, row_at + rows, blocks, chunk.stop, mask))
        row_at += rows
    groups, row_at = [], 0
    for alike in _alike(chunks[:decodes]):
        groups.append(_gathered(alike, row_at, keys[0]))
        row_at += len(alike)
    return PagedBatch(keys, values, slots, groups, prefills)


def _alike(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Neighbours of about the same length, which share a gather."""
    groups: list[list[Chunk]] = []
    for chunk in chunks:
        if groups and chunk.stop <= MOST_PADDING * groups[-1][0].stop:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return groups


def _gathered(group: list[Chunk], row_at: int, like: torch.Tensor) -> GatheredRows:
    width = len(group[-1].blocks)
    blocks = torch.zeros(len(group), width, dtype=torch.long)
    for row, chunk in zip(blocks, group, strict=True):
        row[: len(chunk.blocks)] = chunk.blocks
    lengths = torch.tensor([chunk.stop for chunk in group])
    mask = hiding_mask(lengths, width * BLOCK_TOKENS, like.dtype).to(like.device)
    return GatheredRows(row_at, row_at + len(group), blocks.to(like.device), mask)


def hiding_mask(lengths: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Float [rows, 1, 1, tokens]: 0 for the first `lengths` [rows] tokens of each, then -inf."""
    is_there = torch.arange(tokens)[None] < lengths[:, None]
    mask = torch.zeros(is_there.shape, dtype=dtype)
    return mask.masked_fill_(~is_there, float("-inf"))[:, None, None]
