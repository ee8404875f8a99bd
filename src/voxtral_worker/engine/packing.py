"""Packs the tokens of many sequences into one batch without padding."""

import torch

from voxtral_worker.engine.attention import GatheredRows, PagedBatch, PrefillRows
from voxtral_worker.engine.block_tables import BlockTables
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS
from voxtral_worker.engine.plan import Chunk

# Sequences whose lengths differ by a larger factor are gathered in calls of their own: padding
# takes time, and so does every call.
MOST_PADDING = 1.5


def pack(
    chunks: list[Chunk],
    tables: BlockTables,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    log_weights: torch.Tensor | None = None,
) -> PagedBatch:
    """Pack chunks, of which decodes come first, the shorter before the longer.

    `tables` says in which blocks their tokens are. `keys` and `values` are the cache, one tensor
    [blocks, block size, heads, head size] a layer. `log_weights`, float [blocks, block size], is
    added to the scores of attention to the token that is stored there; None adds nothing.
    """
    device = keys[0].device
    decodes = sum(chunk.is_decode for chunk in chunks)
    slots = torch.cat([tables.slots(chunk) for chunk in chunks]).to(device)
    prefills, row_at = [], decodes
    for chunk in chunks[decodes:]:
        rows = chunk.stop - chunk.start
        blocks = tables.blocks(chunk).to(device)
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
        groups.append(_gathered(alike, tables, row_at, keys[0], log_weights))
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
    group: list[Chunk],
    tables: BlockTables,
    row_at: int,
    like: torch.Tensor,
    log_weights: torch.Tensor | None,
) -> GatheredRows:
    """The decodes of a group, whose last chunk is the longest, from row `row_at` of the step on."""
    held = [tables.blocks(chunk) for chunk in group]
    blocks = torch.empty(len(group), len(held[-1]), dtype=torch.long)
    for row, own in zip(blocks, held, strict=True):
        row[: len(own)] = own
        # Its own once more: what a mask hides is still multiplied by 0, and NaN survives that.
        row[len(own) :] = own[0]
    lengths = torch.tensor([chunk.stop for chunk in group])
    mask = hiding_mask(lengths, blocks.shape[1] * BLOCK_TOKENS, like.dtype).to(like.device)
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
