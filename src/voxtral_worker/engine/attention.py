"""Attention over the paged KV cache, behind one function that transformers' layers call.

On a CPU, and as the reference everywhere, the blocks of a sequence are gathered and
PyTorch's own scaled dot product attention runs over them. Decode steps of a GPU read the
blocks where they are (`paged_kernel`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "voxtral_paged"


@dataclass
class GatheredRows:
    """Rows [start, stop) of the batch: the newest token of each of some sequences.

    `blocks`, int64 [sequences, width], are the blocks of each, in the order of its tokens. `mask`,
    float [sequences, 1, 1, width * block size], is added to the scores: the log weight of a token
    or 0, and -inf behind the last token.
    """

    start: int
    stop: int
    blocks: torch.Tensor
    mask: torch.Tensor


@dataclass
class KernelRows:
    """The whole batch: the newest token of each of some sequences, whose blocks a kernel reads.

    `blocks`, int32 [sequences, width]; `lengths`, int32 [sequences], counts the new token;
    `log_weights`, float32 [blocks, block size], are added to the scores, where there are any.
    """

    blocks: torch.Tensor
    lengths: torch.Tensor
    log_weights: torch.Tensor | None = None


@dataclass
class PrefillRows:
    """Rows [start, stop) of the batch: the next tokens of one prompt.

    `blocks` [width] hold all `context` tokens up to the last of these rows. `mask`, [rows,
    context], bool, or float where tokens have weights; None when the rows are the whole context.
    """

    start: int
    stop: int
    blocks: torch.Tensor
    context: int
    mask: torch.Tensor | None


@dataclass
class PagedBatch:
    """One packed step: first a row for each decoding sequence, then the rows of prompts.

    `keys`, `values`: a tensor [blocks, block size, KV heads, head size] for each layer.
    `slots` [rows]: where the rows' own keys and values go, as block * block size + place.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    slots: torch.Tensor
    decodes: list[GatheredRows] | KernelRows
    prefills: list[PrefillRows]


_here = threading.local()


@contextmanager
def attending(batch: PagedBatch) -> Iterator[None]:
    """Let this thread's forward passes work on the rows of `batch` while the context is open.

    The passes do not get the batch as an argument, because the tensors of the cache must not
    enter a compiled graph: it might copy them to be safe.
    """
    _here.batch = batch
    try:
        yield
    finally:
        del _here.batch


def open_batch() -> PagedBatch:
    """The batch whose context is open on this thread."""
    batch: PagedBatch = _here.batch
    return batch


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store keys and values of the rows, then attend; returns [1, rows, heads, head size].

    `query` [1, heads, rows, head size]; `key`, `value` [1, KV heads, rows, head size].
    """
    heads, rows, size = query.shape[1:]
    output = query.new_empty(rows, heads, size)
    attend = _attend_opaquely if torch.compiler.is_compiling() else _attend
    attend(query, key, value, module.layer_idx, scaling, output)
    return output[None], None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float,
    output: torch.Tensor,
) -> None:
    batch = open_batch()
    keys, values = batch.keys[layer], batch.values[layer]
    keys.flatten(0, 1).index_copy_(0, batch.slots, key[0].transpose(0, 1))
    values.flatten(0, 1).index_copy_(0, batch.slots, value[0].transpose(0, 1))
    if isinstance(batch.decodes, KernelRows):
        # Triton is there with CUDA only.
        from voxtral_worker.engine.paged_kernel import decode

        rows = batch.decodes
        weights = rows.log_weights
        decode(query[0], keys, values, rows.blocks, rows.lengths, scaling, output, weights)
        return
    for group in batch.decodes:
        newest = query[0, :, group.start : group.stop].transpose(0, 1)
        output[group.start : group.stop] = _decode(newest, keys, values, group, scaling)
    for prefill in batch.prefills:
        place = slice(prefill.start, prefill.stop)
        next_rows = query[:, :, place]
        if prefill.stop - prefill.start == prefill.context:
            context = key[:, :, place], value[:, :, place]
        else:
            context = _gather(keys, prefill), _gather(values, prefill)
        attended = _prefill(next_rows, *context, prefill.mask, scaling)
        output[place] = attended[0].transpose(0, 1)


_attend_opaquely = torch.library.custom_op(
    "voxtral_worker::paged_attention", _attend, mutates_args=("output",)
)


@_attend_opaquely.register_fake
def _(*_: Any) -> None:
    """The compiler's view: the result is written into `output`, and nothing is returned."""


def _decode(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    group: GatheredRows,
    scaling: float,
) -> torch.Tensor:
    """`rows` and what is returned: [sequences, heads, head size]."""
    sequences, width = group.blocks.shape
    _, block_tokens, kv_heads, size = keys.shape
    shape = (sequences, width * block_tokens, kv_heads, size)
    chosen = group.blocks.flatten()
    # The query heads that share a KV head are passed as positions, so that no key has to be
    # repeated for each of them.
    attended = F.scaled_dot_product_attention(
        rows.reshape(sequences, kv_heads, -1, size),
        keys.index_select(0, chosen).view(shape).transpose(1, 2),
        values.index_select(0, chosen).view(shape).transpose(1, 2),
        attn_mask=group.mask,
        scale=scaling,
    )
    return attended.reshape(rows.shape)


def _prefill(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """`rows` [1, heads, rows, head size]; `keys`, `values` [1, KV heads, context, head size]."""
    if mask is not None and rows.is_cuda:
        # PyTorch's kernel that saves memory takes no mask together with shared heads.
        repeats = rows.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    return F.scaled_dot_product_attention(
        rows,
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=rows.shape[1] != keys.shape[1],
    )


def _gather(stored: torch.Tensor, prefill: PrefillRows) -> torch.Tensor:
    """Keys or values of a prompt's context, [1, KV heads, context, head size]."""
    whole = stored.index_select(0, prefill.blocks).flatten(0, 1)[: prefill.context]
    return whole.transpose(0, 1)[None]


AttentionInterface.register(NAME, paged_attention)
