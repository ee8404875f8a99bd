"""Decode attention that reads the blocks of the KV cache where they are, for GPUs.

Flash-decoding (Dao et al., 2023, "Flash-Decoding for long-context inference"): the tokens of a
sequence are split into parts, each of which a program reduces with a running softmax; a
second kernel joins the parts. The query heads that share a KV head go through one product.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

# Tokens that a program takes at a time; a whole number of blocks.
TILE_TOKENS = 64
# Rows of the smallest matrix product of the hardware.
LEAST_ROWS = 16
# Programs that keep every multiprocessor of a large GPU busy twice over.
PROGRAMS = 264
# The fewest parts: one long sequence among many short ones needs more than one program a head.
LEAST_PARTS = 8
MOST_PARTS = 32


def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    blocks: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    output: torch.Tensor,
    log_weights: torch.Tensor | None = None,
) -> None:
    """Attend from one token of each sequence; writes `output`, [sequences, heads, size].

    `query` [heads, sequences, size]; `keys`, `values` [blocks, block size, KV heads, size];
    `blocks`, int32 [sequences, width]; `lengths`, int32 [sequences], at least 1 each. `size`
    is a power of two of at least 16. `log_weights`, float32 [blocks, block size], are added to
    the scores.
    """
    heads, sequences, size = query.shape
    _, block_tokens, kv_heads, _ = keys.shape
    parts = parts_for(sequences * kv_heads)
    partial = query.new_empty((sequences, heads, parts, size), dtype=torch.float32)
    totals = query.new_empty((2, sequences, heads, parts), dtype=torch.float32)
    is_weighted = log_weights is not None
    attending, joining = constants(heads, kv_heads, size, block_tokens, is_weighted=is_weighted)
    _attend_part[(sequences, kv_heads, parts)](
        query,
        keys,
        values,
        blocks,
        lengths,
        # Any pointer to float32 does where it is not read.
        log_weights if is_weighted else partial,
        partial,
        totals[0],
        totals[1],
        scaling,
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        blocks.stride(0),
        parts,
        **attending,
    )
    _join_parts[(sequences, heads)](partial, totals[0], totals[1], output, parts, **joining)


def constants(
    heads: int, kv_heads: int, size: int, block_tokens: int, *, is_weighted: bool = False
) -> tuple[dict[str, int], dict[str, int]]:
    """The constants of the binaries of both kernels, `_attend_part` and `_join_parts`."""
    group = heads // kv_heads
    rows = max(LEAST_ROWS, triton.next_power_of_2(group))
    attending = {"HEADS": heads, "GROUP": group, "ROWS": rows, "SIZE": size}
    attending |= {"BLOCK_TOKENS": block_tokens, "TILE": TILE_TOKENS, "WEIGHTED": is_weighted}
    return attending, {"HEADS": heads, "SIZE": size, "MOST": MOST_PARTS}


def parts_for(pairs: int) -> int:
    """Parts, a power of two, into which each of so many (sequence, KV head) pairs is split."""
    wanted = int(triton.next_power_of_2(max(1, PROGRAMS // pairs)))
    return max(LEAST_PARTS, min(MOST_PARTS, wanted))


# One binary for every number of parts and every width of the block table.
@triton.jit(do_not_specialize=["blocks_row", "parts"])  # type: ignore[untyped-decorator]
def _attend_part(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    blocks,
    lengths,
    log_weights,
    partial,
    maxima,
    sums,
    scaling,
    query_head,
    query_row,
    kv_block,
    kv_token,
    kv_head,
    blocks_row,
    parts,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.program_id(2)
    length = tl.load(lengths + sequence)
    tiles = tl.cdiv(tl.cdiv(length, TILE), parts)
    start = part * tiles * TILE
    stop = tl.minimum(start + tiles * TILE, length)
    rows = tl.arange(0, ROWS)
    sizes = tl.arange(0, SIZE)
    is_row = rows < GROUP
    heads = head * GROUP + rows
    to = (sequence * HEADS + heads) * parts + part
    if start >= length:
        # No token is left for this part, and `_join_parts` reads nothing else of it.
        tl.store(maxima + to, tl.full([ROWS], float("-inf"), tl.float32), mask=is_row)
        return
    q = tl.load(
        query + heads[:, None] * query_head + sequence * query_row + sizes[None, :],
        mask=is_row[:, None],
        other=0.0,
    )
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, SIZE], tl.float32)
    for first in range(start, stop, TILE):
        tokens = first + tl.arange(0, TILE)
        is_token = tokens < stop
        block = tl.load(
            blocks + sequence * blocks_row + tokens // BLOCK_TOKENS, mask=is_token, other=0
        ).to(tl.int64)
        at = block * kv_block + (tokens % BLOCK_TOKENS) * kv_token + head * kv_head
        k = tl.load(keys + at[:, None] + sizes[None, :], mask=is_token[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        if WEIGHTED:
            weighted = log_weights + block * BLOCK_TOKENS + tokens % BLOCK_TOKENS
            scores += tl.load(weighted, mask=is_token, other=0.0)[None, :]
        scores = tl.where(is_token[None, :], scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - new_best[:, None])
        shrink = tl.exp(best - new_best)
        v = tl.load(values + at[:, None] + sizes[None, :], mask=is_token[:, None], other=0.0)
        result = result * shrink[:, None]
        result += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        best = new_best
    tl.store(partial + to[:, None] * SIZE + sizes[None, :], result, mask=is_row[:, None])
    tl.store(maxima + to, best, mask=is_row)
    tl.store(sums + to, total, mask=is_row)


@triton.jit(do_not_specialize=["parts"])  # type: ignore[untyped-decorator]
def _join_parts(  # type: ignore[no-untyped-def]
    partial,
    maxima,
    sums,
    output,
    parts,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    MOST: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    numbers = tl.arange(0, MOST)
    sizes = tl.arange(0, SIZE)
    best = tl.load(maxima + at * parts + numbers, mask=numbers < parts, other=float("-inf"))
    # A part without tokens has the maximum -inf, and nothing else was written for it.
    is_there = best > float("-inf")
    weights = tl.exp(best - tl.max(best, 0))
    total = tl.load(sums + at * parts + numbers, mask=is_there, other=0.0)
    rows = tl.load(
        partial + (at * parts + numbers)[:, None] * SIZE + sizes[None, :],
        mask=is_there[:, None],
        other=0.0,
    )
    joined = tl.sum(rows * weights[:, None], 0) / tl.sum(total * weights, 0)
    tl.store(output + at * SIZE + sizes, joined.to(output.dtype.element_ty))
