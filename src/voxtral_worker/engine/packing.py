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
    wanted unless more of the prompt follows, or of an answer that is computed once more.
    """

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_decode(self) -> bool:
        """Whether this is the one token that was generated last."""
        return self.start >= self.sequence.prefill_tokens

    @property
    def wants_logits(self) -> bool:
        """Whether a token is chosen after this chunk."""
        return self.stop >= self.sequence.prefill_tokens

    @property
    def positions(self) -> list[int]:
        """The positions of its rows."""
        return self.sequence.positions(self.start, self.stop)

    @property
    def is_weighted(self) -> bool:
        """Whether a row up to its last has a weight."""
        return self.sequence.prompt.weighted_from < self.stop

    @property
    def blocks(self) -> torch.Tensor:
        """Blocks of all tokens up to its last, int64 [width]."""
        return self.sequence.block_ids[: blocks_for(self.stop)]


def pack(
    chunks: list[Chunk],
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    log_weights: torch.Tensor | None = None,
) -> PagedBatch:
    """The batch of these chunks: decodes first, the shorter before the longer.

    `log_weights`, float [blocks, block size]: what is added to the scores of attention to the
    row that is stored there; None where that is nothing.
    """
    device = keys[0].device
    decodes = sum(chunk.is_decode for chunk in chunks)
    slots = torch.cat([c.sequence.slots[c.start : c.stop] for c in chunks]).to(device)
    prefills, row_at = [], decodes
    for chunk in chunks[decodes:]:
        rows = chunk.stop - chunk.start
        blocks = chunk.blocks.to(device)
        mask = None
        if chunk.start or chunk.is_weighted:
            mask = torch.ones(rows, chunk.stop, dtype=torch.bool, device=device)
            mask = mask.tril(chunk.start)
        if mask is not None and log_weights is not None and chunk.is_weighted:
            mask = _weighted(mask, log_weights[blocks].flatten(), keys[0].dtype)
        prefills.append(PrefillRows(row_at, row_at + rows, blocks, chunk.stop, mask))
        row_at += rows
    groups, row_at = [], 0
    for alike in _alike(chunks[:decodes]):
        groups.append(_gathered(alike, row_at, keys[0], log_weights))
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


def _weighted(mask: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A bool mask [rows, context] as floats: `weights` [context or more], -inf where it hides."""
    scores = weights[: mask.shape[1]].to(dtype).repeat(len(mask), 1)
    return scores.masked_fill_(~mask, float("-inf"))


def _gathered(
    group: list[Chunk], row_at: int, like: torch.Tensor, log_weights: torch.Tensor | None
) -> GatheredRows:
    width = len(group[-1].blocks)
    blocks = torch.empty(len(group), width, dtype=torch.long)
    for row, chunk in zip(blocks, group, strict=True):
        row[: len(chunk.blocks)] = chunk.blocks
        # Its own once more: what a mask hides is still multiplied by 0, and NaN survives that.
        row[len(chunk.blocks) :] = chunk.blocks[0]
    lengths = torch.tensor([chunk.stop for chunk in group])
    mask = hiding_mask(lengths, width * BLOCK_TOKENS, like.dtype).to(like.device)
    blocks = blocks.to(like.device)
    if log_weights is not None and any(chunk.is_weighted for chunk in group):
        mask += gathered_weights(log_weights, blocks)
    return GatheredRows(row_at, row_at + len(group), blocks, mask)


def hiding_mask(lengths: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Float [rows, 1, 1, tokens]: 0 for the first `lengths` [rows] tokens of each, then -inf."""
    device = lengths.device
    is_there = torch.arange(tokens, device=device)[None] < lengths[:, None]
    mask = torch.zeros(is_there.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~is_there, float("-inf"))[:, None, None]


def gathered_weights(log_weights: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Weights, [rows, 1, 1, width * block size], of what `blocks` [rows, width] hold."""
    return log_weights[blocks.long()].flatten(1)[:, None, None]
