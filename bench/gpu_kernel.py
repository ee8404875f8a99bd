"""Compares the decode kernel with PyTorch's attention over gathered blocks, at the real heads."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.gpu_timing import REPEATS, in_ms, timed
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for

# (sequences, tokens each)
CASES = ((1, 2000), (16, 2000), (32, 2000), (1, 32_000), (64, 500))
# Of values of about 1: bf16 keeps eight bits.
MOST_WRONG = 0.03


@dataclass(frozen=True)
class Heads:
    """Query heads, KV heads and the size of each."""

    query: int = 32
    kv: int = 8
    size: int = 128


def check_kernel(
    device: torch.device,
    cases: tuple[tuple[int, int], ...] = CASES,
    heads: Heads | None = None,
    repeats: int = REPEATS,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Print error and time of each case. Raises AssertionError if an error is too large."""
    from voxtral_worker.engine import paged_kernel  # Triton is not on every machine

    heads = heads or Heads()
    print(f"\n{heads.query} query and {heads.kv} KV heads of {heads.size}, {dtype}\n")
    print("| sequences × tokens | worst error | kernel | gathered SDPA | ratio ", end="")
    print("| SDPA alone, nothing to gather | ratio |\n| --- | --- | --- | --- | --- | --- | --- |")
    for sequences, tokens in cases:
        torch.manual_seed(1)
        width = blocks_for(tokens)
        shape = (sequences * width, BLOCK_TOKENS, heads.kv, heads.size)
        keys = torch.randn(shape, device=device).to(dtype)
        values = torch.randn(shape, device=device).to(dtype)
        order = torch.randperm(sequences * width, device=device)
        blocks = order.view(sequences, width).to(torch.int32)
        lengths = torch.full((sequences,), tokens, dtype=torch.int32, device=device)
        query = torch.randn(sequences, heads.query, heads.size, device=device)
        query = query.to(dtype).transpose(0, 1)
        output = torch.empty(query.transpose(0, 1).shape, dtype=dtype, device=device)
        scaling = heads.size**-0.5

        def by_kernel() -> None:
            paged_kernel.decode(query, keys, values, blocks, lengths, scaling, output)  # noqa: B023

        def taken(cache: torch.Tensor, exactly: torch.dtype) -> torch.Tensor:
            return cache[blocks.long()].flatten(1, 2)[:, :tokens].transpose(1, 2).to(exactly)  # noqa: B023

        def attend(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q = query.transpose(0, 1)[:, :, None].to(k.dtype)  # noqa: B023
            return F.scaled_dot_product_attention(q, k, v, scale=scaling, enable_gqa=True)[:, :, 0]  # noqa: B023

        def gathered(exactly: torch.dtype = dtype) -> torch.Tensor:
            return attend(taken(keys, exactly), taken(values, exactly))  # noqa: B023

        by_kernel()
        worst = (gathered(torch.float32) - output.float()).abs().max().item()
        assert worst < MOST_WRONG, f"the kernel is wrong by {worst} at {sequences} × {tokens}"
        k, v = taken(keys, dtype).contiguous(), taken(values, dtype).contiguous()

        def alone() -> torch.Tensor:
            return attend(k, v)  # noqa: B023 - called at once

        ours_s, theirs_s, alone_s = (
            timed(work, device, repeats) for work in (by_kernel, gathered, alone)
        )
        print(f"| {sequences} × {tokens} | {worst:.1e} | {in_ms(ours_s)} ", end="")
        print(f"| {in_ms(theirs_s)} | {theirs_s / ours_s:.2f} ", end="")
        print(f"| {in_ms(alone_s)} | {alone_s / ours_s:.2f} |", flush=True)
