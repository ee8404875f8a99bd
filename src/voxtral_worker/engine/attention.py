"""Attention over the paged KV cache, behind one function that transformers' layers call.

The form for CPUs and the reference for GPUs: the blocks of a sequence are gathered, then
PyTorch's own scaled dot product attention runs over them.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "voxtral_paged"


@dataclass
class DecodeRows:
    """Rows [start, stop) of the batch: the newest token of each of some sequences.

    `blocks` [sequences, width]: where the tokens of each are stored, in order; `mask`, float
    [sequences, 1, 1, width * block size]: 0 where there is a token, -inf behind the last.
    """

    start: int
    stop: int
    blocks: torch.Tensor
    mask: torch.Tensor


@dataclass
class PrefillRows:
    """Rows [start, stop) of the batch: the next tokens of one prompt.

    `blocks` [width] hold all `context` tokens up to the last of these rows. `mask`, bool
    [rows, context], or None when the rows are the whole context.
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
    decodes: list[DecodeRows]
    prefills: list[PrefillRows]


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    paged: PagedBatch,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store keys and values of the rows, then attend; returns [1, rows, heads, head size].

    `query` [1, heads, rows, head size]; `key`, `value` [1, KV heads, rows, head size].
    """
    keys, values = paged.keys[module.layer_idx], paged.values[module.layer_idx]
    keys.flatten(0, 1).index_copy_(0, paged.slots, key[0].transpose(0, 1))
    values.flatten(0, 1).index_copy_(0, paged.slots, value[0].transpose(0, 1))
    output = torch.empty_like(query[0].transpose(0, 1))
    for decode in paged.decodes:
        rows = query[0, :, decode.start : decode.stop].transpose(0, 1)
        output[decode.start : decode.stop] = _decode(rows, keys, values, decode, scaling)
    for prefill in paged.prefills:
        place = slice(prefill.start, prefill.stop)
        if prefill.mask is None:
            context = key[:, :, place], value[:, :, place]
        else:
            context = _gather(keys, prefill), _gather(values, prefill)
        attended = F.scaled_dot_product_attention(
            query[:, :, place],
            *context,
            attn_mask=prefill.mask,
            is_causal=prefill.mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        output[place] = attended[0].transpose(0, 1)
    return output[None], None


def _decode(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    decode: DecodeRows,
    scaling: float,
) -> torch.Tensor:
    """`rows` and what is returned: [sequences, heads, head size]."""
    sequences, width = decode.blocks.shape
    _, block_tokens, kv_heads, size = keys.shape
    shape = (sequences, width * block_tokens, kv_heads, size)
    chosen = decode.blocks.flatten()
    # The query heads that share a KV head stand where the positions would: no key is
    # repeated for them.
    attended = F.scaled_dot_product_attention(
        rows.reshape(sequences, kv_heads, -1, size),
        keys.index_select(0, chosen).view(shape).transpose(1, 2),
        values.index_select(0, chosen).view(shape).transpose(1, 2),
        attn_mask=decode.mask,
        scale=scaling,
    )
    return attended.reshape(rows.shape)


def _gather(stored: torch.Tensor, prefill: PrefillRows) -> torch.Tensor:
    """Keys or values of a prompt's context, [1, KV heads, context, head size]."""
    whole = stored.index_select(0, prefill.blocks).flatten(0, 1)[: prefill.context]
    return whole.transpose(0, 1)[None]


AttentionInterface.register(NAME, paged_attention)
