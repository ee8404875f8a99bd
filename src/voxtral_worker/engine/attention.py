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
class PrefillRows:
    """Rows [start, stop) of the batch: the next tokens of one prompt.

    `slots` [context]: where all tokens up to the last of these rows are stored. `mask`, bool
    [rows, context], or None when the rows are the whole context.
    """

    start: int
    stop: int
    slots: torch.Tensor
    mask: torch.Tensor | None


@dataclass
class PagedBatch:
    """One packed step: first a row for each decoding sequence, then the rows of prompts.

    `keys`, `values`: a tensor [slots, KV heads, head size] for each layer. `slots` [rows]:
    where the rows' own keys and values go. `decode_slots` [sequences, longest context] and
    `decode_mask`, bool [sequences, 1, 1, longest context].
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    slots: torch.Tensor
    decode_slots: torch.Tensor | None
    decode_mask: torch.Tensor | None
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
    keys.index_copy_(0, paged.slots, key[0].transpose(0, 1))
    values.index_copy_(0, paged.slots, value[0].transpose(0, 1))
    output = torch.empty_like(query[0].transpose(0, 1))
    kv_heads = key.shape[1]
    decodes = 0
    if paged.decode_slots is not None:
        decodes = len(paged.decode_slots)
        # The query heads that share a KV head stand where the positions would: no key is
        # repeated for them.
        rows = query[0, :, :decodes].transpose(0, 1)
        grouped = rows.reshape(decodes, kv_heads, -1, rows.shape[-1])
        attended = F.scaled_dot_product_attention(
            grouped,
            keys[paged.decode_slots].transpose(1, 2),
            values[paged.decode_slots].transpose(1, 2),
            attn_mask=paged.decode_mask,
            scale=scaling,
        )
        output[:decodes] = attended.reshape(decodes, -1, rows.shape[-1])
    for prefill in paged.prefills:
        attended = F.scaled_dot_product_attention(
            query[:, :, prefill.start : prefill.stop],
            keys[prefill.slots].transpose(0, 1)[None],
            values[prefill.slots].transpose(0, 1)[None],
            attn_mask=prefill.mask,
            is_causal=prefill.mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        output[prefill.start : prefill.stop] = attended[0].transpose(0, 1)
    return output[None], None


AttentionInterface.register(NAME, paged_attention)
