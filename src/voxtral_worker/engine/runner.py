"""Runs the language model: one step for all sequences, each at its own position."""

import torch

from voxtral_worker.engine import attention
from voxtral_worker.engine.attention import attending
from voxtral_worker.engine.decoding import DecodeSteps, Row
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.packing import Chunk, pack
from voxtral_worker.settings import Settings

CPU_CACHE_BYTES = 512 << 20
# What activations and recorded steps may need of the memory that the cache could take.
CACHE_SHARE = 0.85


class Runner:
    """The language model's modules and the tensors of the KV cache; engine thread only.

    On a GPU decodes are steps of their own, of fixed shapes; on a CPU they share a packed
    step with prompts, unless they are compiled.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        self._loaded = loaded
        self._language = loaded.model.model.language_model
        self._head = loaded.model.lm_head
        self._embed = loaded.model.get_input_embeddings()
        self._language.config._attn_implementation = attention.NAME
        config = loaded.model.config.text_config
        self.bytes_per_token = bytes_per_token(config, loaded.dtype)
        budget = self._budget(settings.gpu_memory_fraction)
        self.blocks = budget // (self.bytes_per_token * BLOCK_TOKENS)
        # One more block, where rows that only fill up a batch are written.
        shape = (self.blocks + 1, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
        # Zeros: what a mask hides is still multiplied by 0, and NaN would survive that.
        tensors = [
            torch.zeros(shape, dtype=loaded.dtype, device=loaded.device)
            for _ in range(2 * config.num_hidden_layers)
        ]
        self._keys, self._values = tensors[::2], tensors[1::2]
        self._steps: DecodeSteps | None = None
        if loaded.device.type == "cuda" or settings.enable_torch_compile:
            self._steps = self._decode_steps(settings)

    def prepare(self) -> None:
        """Compile and record what can be, so that no caller waits for it."""
        if self._steps is not None:
            self._steps.prepare()

    @torch.inference_mode()
    def step(self, chunks: list[Chunk]) -> torch.Tensor:
        """Logits, float [chunks that want them, vocabulary], in the order of the chunks.

        Decodes come first, the shorter before the longer. Nothing is changed but the slots
        of the chunks' own tokens, so a step that failed may be run again, whole or in parts.
        """
        decodes = sum(chunk.is_decode for chunk in chunks)
        if self._steps is None or not decodes:
            return self._packed(chunks)
        logits = self._steps.run([_row(chunk) for chunk in chunks[:decodes]])
        if decodes == len(chunks):
            return logits
        return torch.cat([logits, self._packed(chunks[decodes:])])

    def answers(self) -> bool:
        """Whether the device still computes; asked after a step has failed."""
        try:
            return bool(torch.ones(1, device=self._loaded.device).sum().item() == 1.0)
        except RuntimeError:
            return False

    def _decode_steps(self, settings: Settings) -> DecodeSteps:
        forward = self._forward
        if settings.enable_torch_compile:
            forward = torch.compile(self._forward, dynamic=True)
        return DecodeSteps(
            forward,
            self._keys,
            self._values,
            most_rows=settings.max_batch_size,
            most_tokens=min(
                settings.max_context_tokens or self._loaded.context_tokens,
                self._loaded.context_tokens,
            ),
            spare_block=self.blocks,
        )

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of ids [rows] at positions [rows]."""
        states = self._language(
            inputs_embeds=self._embed(ids)[None], position_ids=positions[None], use_cache=False
        ).last_hidden_state[0]
        logits: torch.Tensor = self._head(states)
        return logits

    def _packed(self, chunks: list[Chunk]) -> torch.Tensor:
        device = self._loaded.device
        positions = [p for chunk in chunks for p in range(chunk.start, chunk.stop)]
        with attending(pack(chunks, self._keys, self._values)):
            states = self._language(
                inputs_embeds=self._inputs(chunks)[None],
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
            ).last_hidden_state[0]
        last, row = [], 0
        for chunk in chunks:
            row += chunk.stop - chunk.start
            if chunk.wants_logits:
                last.append(row - 1)
        chosen = torch.tensor(last, device=device, dtype=torch.long)
        logits: torch.Tensor = self._head(states[chosen])
        return logits

    def _budget(self, memory_fraction: float) -> int:
        if self._loaded.device.type == "cpu":
            return CPU_CACHE_BYTES
        free, _ = torch.cuda.mem_get_info(self._loaded.device)
        return cache_budget(free, memory_fraction)

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


def _row(chunk: Chunk) -> Row:
    (token_id,) = chunk.sequence.ids(chunk.start, chunk.stop)
    return Row(token_id, chunk.start, chunk.blocks)


def bytes_per_token(config: object, dtype: torch.dtype) -> int:
    """Bytes of KV cache that a token takes, of transformers' configuration of the text model."""
    layers, heads = config.num_hidden_layers, config.num_key_value_heads  # type: ignore[attr-defined]
    size: int = config.head_dim  # type: ignore[attr-defined]
    return int(2 * layers * heads * size * dtype.itemsize)


def cache_budget(free_bytes: int, memory_fraction: float) -> int:
    """Bytes for the KV cache, of what is free beside the weights."""
    return int(free_bytes * memory_fraction * CACHE_SHARE)
