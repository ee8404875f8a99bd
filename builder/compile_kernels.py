"""Compiles the decode kernels for all supported GPUs. It needs no GPU itself.

    TRITON_CACHE_DIR=/opt/kernels python -m builder.compile_kernels

A worker with the same TRITON_CACHE_DIR finds them there. The kernels are compiled by the same call
that launches them later, with a driver that claims to have the GPU.
"""

import itertools
import sys
from typing import Any

import torch
import triton  # type: ignore[import-untyped]
from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]

from voxtral_worker.engine import paged_kernel
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS

# A100, A40 and 3090, L4 and 4090, H100, B200, 5090.
CAPABILITIES = (80, 86, 89, 90, 100, 120)
DTYPES = (torch.bfloat16, torch.float16)
# Voxtral-Mini-3B: heads, KV heads, head size.
RELEASED = (32, 8, 128)


class ClaimedDriver:
    """A driver for a GPU that this machine does not have. It can compile but not launch."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        """The GPU that it claims to have."""
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """A number for each GPU: Triton keeps compiled kernels of this process by it."""
        return self._capability

    def get_current_stream(self, device: int) -> int:
        """Any number: nothing is launched."""
        return 0


def compile_for(
    capability: int,
    dtype: torch.dtype,
    shape: tuple[int, int, int] = RELEASED,
    parts: int = paged_kernel.LEAST_PARTS,
    blocks_row: int = 2048,
    *,
    is_weighted: bool = False,
) -> list[Any]:
    """Compile both kernels for one GPU. Returns their binaries.

    `shape` is heads, KV heads and head size; `parts` and `blocks_row` are arguments of the kernels.
    """
    heads, kv_heads, size = shape
    attending, joining = paged_kernel.constants(
        heads, kv_heads, size, BLOCK_TOKENS, is_weighted=is_weighted
    )
    token, block = kv_heads * size, BLOCK_TOKENS * kv_heads * size
    strides = (size, heads * size, block, token, size, blocks_row)
    i32, f32 = torch.int32, torch.float32
    # Forget what this process has compiled: Triton would return it without writing it to the
    # cache's folder.
    for kernel in (paged_kernel._attend_part, paged_kernel._join_parts):
        kernel.device_caches.clear()
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(ClaimedDriver(capability))
    try:
        return [
            paged_kernel._attend_part.warmup(
                *(dtype, dtype, dtype, i32, i32, f32, f32, f32, f32, size**-0.5, *strides, parts),
                grid=(1,),
                **attending,
            ),
            paged_kernel._join_parts.warmup(f32, f32, f32, dtype, parts, grid=(1,), **joining),
        ]
    finally:
        triton.runtime.driver._active = before


def main() -> None:
    """Compile for every GPU and dtype, with and without weights, into Triton's cache."""
    for capability in CAPABILITIES:
        for dtype, is_weighted in itertools.product(DTYPES, (False, True)):
            binaries = compile_for(capability, dtype, is_weighted=is_weighted)
            sizes = [len(binary.asm["cubin"]) for binary in binaries]
            kind = "weighted" if is_weighted else "plain"
            print(f"sm_{capability} {dtype} {kind}: {sizes} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
