"""Runs the language model: one step for all sequences, each at its own position."""

import torch

from voxtral_worker.engine import attention
from voxtral_worker.engine.attention import PagedBatch, PrefillRows, attending
from voxtral_worker.engine.decoding import DecodeSteps, Row
from voxtral_worker.engine.embeddings import embeddings_on
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.packing import Chunk, pack
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import Settings

CPU_CACHE_BYTES = 512 << 20
# What Voxtral-Mini-3B was made for, whatever its configuration says of its positions.
MOST_CONTEXT_TOKENS = 32_768
# What is left for work beside weights and cache. The largest there is of each, at the released
# shape: windows 352 MiB, a prompt behind 32k tokens 631, a step's prompts 145, features of half
# an hour 400, choosing tokens 32; the rest is the libraries'.
WORKING_BYTES = 2 << 30
# Below this nobody can be talked with.
LEAST_CACHE_TOKENS = 2048


class Runner:
    """The language model's modules and the tensors of the KV cache; engine thread only.

    On a GPU decodes are steps of their own, of fixed shapes; on a CPU they share a packed
    step with prompts, unless they are compiled.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings, window_tail: str = EXACT) -> None:
        """`window_tail`: see layout_of."""
        self._loaded = loaded
        self._language = loaded.model.model.language_model
        self._head = loaded.model.lm_head
        self._embed = loaded.model.get_input_embeddings()
        self._language.config._attn_implementation = attention.NAME
        config = loaded.model.config.text_config
        self.bytes_per_token = bytes_per_token(config, loaded.dtype)
        budget = self._budget(settings.gpu_memory_fraction)
        self.blocks = budget // (self.bytes_per_token * BLOCK_TOKENS)
        # Positions; rows may be fewer, and must fit into the blocks.
        self.context_tokens = min(
            loaded.context_tokens, settings.max_context_tokens or MOST_CONTEXT_TOKENS
        )
        # One more block, where rows that only fill up a batch are written.
        shape = (self.blocks + 1, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
        # Zeros: see `clear`.
        tensors = [
            torch.zeros(shape, dtype=loaded.dtype, device=loaded.device)
            for _ in range(2 * config.num_hidden_layers)
        ]
        self._keys, self._values = tensors[::2], tensors[1::2]
        # What is added to the scores of attention to a row, in every layer; see Layout.
        self._log_weights: torch.Tensor | None = None
        if window_tail != EXACT:
            self._log_weights = torch.zeros(shape[:2], device=loaded.device)
        self._steps: DecodeSteps | None = None
        if loaded.device.type == "cuda" or settings.enable_torch_compile:
            self._steps = self._decode_steps(settings)

    def prepare(self) -> None:
        """Compile and record what can be, so that no caller waits for it."""
        if self._steps is not None:
            self._steps.prepare()

    @property
    def attention(self) -> str:
        """How decodes attend: "paged" reads the blocks in place, "gathered" copies them."""
        return self._steps.attention if self._steps is not None else "gathered"

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

    @torch.inference_mode()
    def try_prefill(self, rows: int) -> None:
        """Compute a prompt of so many tokens, to see how long that takes; returns when it is done.

        Before anything is stored: it writes into the first blocks, of which nobody is told.
        """
        device = self._loaded.device
        rows = min(rows, self.blocks * BLOCK_TOKENS)
        places = torch.arange(rows, device=device)
        blocks = torch.arange(blocks_for(rows), device=device)
        prefill = PrefillRows(0, rows, blocks, rows, None)
        with attending(PagedBatch(self._keys, self._values, places, [], [prefill])):
            self._language(
                inputs_embeds=self._embed(torch.zeros_like(places))[None],
                position_ids=places[None],
                use_cache=False,
            )
        self._loaded.wait()

    @torch.inference_mode()
    def clear(self, blocks: torch.Tensor) -> None:
        """Zero these blocks, int64 [n], before a sequence takes them.

        What a mask hides is still multiplied by 0, and NaN that another sequence left there
        would survive that.
        """
        chosen = blocks.to(self._loaded.device)
        for tensor in [*self._keys, *self._values]:
            tensor.index_fill_(0, chosen, 0.0)

    @torch.inference_mode()
    def weigh(self, sequence: Sequence) -> None:
        """Write the weights of the rows that a sequence has yet to compute, answer included.

        Once for its whole stay, as they depend on the lengths of its audio alone. Those of rows
        that it found in the cache are there.
        """
        if self._log_weights is None:
            return
        slots = sequence.slots[sequence.stored :]
        weights = torch.zeros(len(slots))
        rest = sequence.prompt.log_weights[sequence.stored :]
        weights[: len(rest)] = torch.tensor(rest)
        device = self._loaded.device
        self._log_weights.view(-1).index_copy_(0, slots.to(device), weights.to(device))

    def let_go(self) -> None:
        """Give the memory of the KV cache and of recorded steps back; nothing runs after it."""
        self._keys.clear()
        self._values.clear()
        self._log_weights = None
        self._steps = None

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
            most_tokens=min(self.context_tokens, self.blocks * BLOCK_TOKENS),
            spare_block=self.blocks,
            plain=self._forward,
            log_weights=self._log_weights,
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
        positions = [position for chunk in chunks for position in chunk.positions]
        with attending(pack(chunks, self._keys, self._values, self._log_weights)):
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
        free, total = torch.cuda.mem_get_info(self._loaded.device)
        reserved = torch.cuda.memory_reserved(self._loaded.device)
        budget = cache_budget(free, total, reserved, memory_fraction)
        if budget < LEAST_CACHE_TOKENS * self.bytes_per_token:
            raise LoadFailure(
                "the GPU's memory holds the model, but not a KV cache of "
                f"{LEAST_CACHE_TOKENS} tokens and the work beside it"
            )
        return budget

    def _inputs(self, chunks: list[Chunk]) -> torch.Tensor:
        """Input embeddings, float [rows, hidden size]; audio takes its own at its places."""
        ids = [token for chunk in chunks for token in chunk.sequence.ids(chunk.start, chunk.stop)]
        rows: torch.Tensor = self._embed(torch.tensor(ids, device=self._loaded.device))
        offset = 0
        for chunk in chunks:
            for span in chunk.sequence.prompt.spans:
                first, stop = max(chunk.start, span.start), min(chunk.stop, span.stop)
                if first < stop:
                    to = offset + first - chunk.start
                    part = embeddings_on(
                        rows.device, span.audio, first - span.start, stop - span.start
                    )
                    rows[to : to + stop - first] = part
            offset += chunk.stop - chunk.start
        return rows


def _row(chunk: Chunk) -> Row:
    (token_id,) = chunk.sequence.ids(chunk.start, chunk.stop)
    return Row(token_id, chunk.start, chunk.blocks, chunk.sequence.prompt.skipped)


def bytes_per_token(config: object, dtype: torch.dtype) -> int:
    """Bytes of KV cache that a token takes, of transformers' configuration of the text model."""
    layers, heads = config.num_hidden_layers, config.num_key_value_heads  # type: ignore[attr-defined]
    size: int = config.head_dim  # type: ignore[attr-defined]
    return int(2 * layers * heads * size * dtype.itemsize)


def cache_budget(free: int, total: int, reserved: int, memory_fraction: float) -> int:
    """Bytes for the KV cache: of what is free, and of the worker's share of the device.

    `reserved` is what the weights take of that share already.
    """
    room = min(free, int(total * memory_fraction) - reserved)
    return max(0, room - WORKING_BYTES)
