"""Runs the language model: one packed step for all sequences, each at its own position."""

from dataclasses import dataclass

import torch

from voxtral_worker.engine import attention
from voxtral_worker.engine.attention import DecodeRows, PagedBatch, PrefillRows
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.sequence import Sequence

CPU_CACHE_BYTES = 512 << 20
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


class Runner:
    """The language model's modules and the tensors of the KV cache; engine thread only."""

    def __init__(self, loaded: LoadedModel, memory_fraction: float) -> None:
        self._loaded = loaded
        self._language = loaded.model.model.language_model
        self._head = loaded.model.lm_head
        self._embed = loaded.model.get_input_embeddings()
        self._language.config._attn_implementation = attention.NAME
        config = loaded.model.config.text_config
        self.bytes_per_token = (
            2
            * config.num_hidden_layers
            * config.num_key_value_heads
            * config.head_dim
            * loaded.dtype.itemsize
        )
        self.blocks = self._budget(memory_fraction) // (self.bytes_per_token * BLOCK_TOKENS)
        shape = (self.blocks, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
        keys_and_values = [
            # Zeros: what a mask hides is still multiplied by 0, and NaN would survive that.
            torch.zeros(shape, dtype=loaded.dtype, device=loaded.device)
            for _ in range(2 * config.num_hidden_layers)
        ]
        self._keys, self._values = keys_and_values[::2], keys_and_values[1::2]

    @torch.inference_mode()
    def step(self, chunks: list[Chunk]) -> torch.Tensor:
        """Logits, float [chunks that want them, vocabulary], in the order of the chunks.

        Decodes come first, the shorter before the longer. Nothing is changed but the slots of the chunks' own tokens, so a
        step that failed may be run again, whole or in parts.
        """
        device = self._loaded.device
        positions = [p for chunk in chunks for p in range(chunk.start, chunk.stop)]
        batch = self._batch(chunks)
        states = self._language(
            inputs_embeds=self._inputs(chunks)[None],
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            paged=batch,
        ).last_hidden_state[0]
        last, row = [], 0
        for chunk in chunks:
            row += chunk.stop - chunk.start
            if chunk.wants_logits:
                last.append(row - 1)
        logits: torch.Tensor = self._head(
            states[torch.tensor(last, device=device, dtype=torch.long)]
        )
        return logits

    def answers(self) -> bool:
        """Whether the device still computes; asked after a step has failed."""
        try:
            return bool(torch.ones(1, device=self._loaded.device).sum().item() == 1.0)
        except RuntimeError:
            return False

    def _budget(self, memory_fraction: float) -> int:
        if self._loaded.device.type == "cpu":
            return CPU_CACHE_BYTES
        free, _ = torch.cuda.mem_get_info(self._loaded.device)
        # What is left after the weights; the rest is for activations.
        return int(free * memory_fraction * 0.85)

    def _inputs(self, chunks: list[Chunk]) -> torch.Tensor:
        """Input embeddings, float [rows, hidden size]; audio takes its own at its places."""
        ids = [token for chunk in chunks for token in chunk.sequence.ids(chunk.start, chunk.stop)]
        rows: torch.Tensor = self._embed(torch.tensor(ids, device=self._loaded.device))
        offset = 0
        for chunk in chunks:
            for start, audio in chunk.sequence.prompt.spans:
                embeddings = audio.embeddings
                if not isinstance(embeddings, torch.Tensor):
                    continue
                first = max(chunk.start, start)
                stop = min(chunk.stop, start + len(embeddings))
                if first < stop:
                    to = offset + first - chunk.start
                    rows[to : to + stop - first] = embeddings[first - start : stop - start]
            offset += chunk.stop - chunk.start
        return rows

    def _batch(self, chunks: list[Chunk]) -> PagedBatch:
        device = self._loaded.device
        decodes = sum(chunk.is_decode for chunk in chunks)
        slots = torch.cat([c.sequence.slots[c.start : c.stop] for c in chunks]).to(device)
        prefills, row_at = [], decodes
        for chunk in chunks[decodes:]:
            rows = chunk.stop - chunk.start
            mask = None
            if chunk.start:
                mask = torch.ones(rows, chunk.stop, dtype=torch.bool, device=device)
                mask = mask.tril(chunk.start)
            blocks = chunk.sequence.block_ids[: blocks_for(chunk.stop)].to(device)
            prefills.append(PrefillRows(row_at, row_at + rows, blocks, chunk.stop, mask))
            row_at += rows
        return PagedBatch(
            self._keys, self._values, slots, self._decodes(chunks[:decodes]), prefills
        )

    def _decodes(self, chunks: list[Chunk]) -> list[DecodeRows]:
        """Neighbours of about the same length share a gather; the chunks are sorted by it."""
        groups: list[list[Chunk]] = []
        for chunk in chunks:
            if groups and chunk.stop <= MOST_PADDING * groups[-1][0].stop:
                groups[-1].append(chunk)
            else:
                groups.append([chunk])
        rows, row_at = [], 0
        for group in groups:
            rows.append(self._decode_rows(group, row_at))
            row_at += len(group)
        return rows

    def _decode_rows(self, group: list[Chunk], row_at: int) -> DecodeRows:
        device, dtype = self._loaded.device, self._loaded.dtype
        lengths = torch.tensor([chunk.stop for chunk in group])
        width = blocks_for(group[-1].stop)
        blocks = torch.zeros(len(group), width, dtype=torch.long)
        for row, chunk in zip(blocks, group, strict=True):
            used = blocks_for(chunk.stop)
            row[:used] = chunk.sequence.block_ids[:used]
        is_there = torch.arange(width * BLOCK_TOKENS)[None] < lengths[:, None]
        mask = torch.zeros(is_there.shape, dtype=dtype).masked_fill_(~is_there, float("-inf"))
        mask = mask[:, None, None].to(device)
        return DecodeRows(row_at, row_at + len(group), blocks.to(device), mask)
