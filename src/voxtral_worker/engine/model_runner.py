"""Runs the language model: one step for all sequences, each at its own position.

The runner decides nothing: the scheduler's plan says what a step computes.
"""

import torch

from voxtral_worker.engine import attention
from voxtral_worker.engine.attention import PagedBatch, PrefillRows, attending
from voxtral_worker.engine.block_tables import BlockTables
from voxtral_worker.engine.decoding import DecodeSteps, Row
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.packing import pack
from voxtral_worker.engine.plan import Chunk
from voxtral_worker.engine.recording import Recorder
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import Settings

CPU_CACHE_BYTES = 512 << 20
# The context that Voxtral-Mini-3B was made for; its configuration allows more positions.
MOST_CONTEXT_TOKENS = 32_768
# Memory of a GPU that is left for work, next to weights and cache. The largest uses at the released
# shape are: windows 352 MiB, a prompt behind 32k tokens 631, a step's prompts 145, features of
# half an hour 400, choosing tokens 32. The rest is for the libraries.
WORKING_BYTES = 2 << 30
# With fewer tokens than these no conversation is possible.
LEAST_CACHE_TOKENS = 2048


class ModelRunner:
    """The language model's modules and the tensors of the KV cache; engine's thread only.

    On a GPU decodes are steps of their own, of fixed shapes. On a CPU they share a packed step
    with prompts, unless they are compiled.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: Settings,
        window_tail: str = EXACT,
        embeddings: Embeddings | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """`window_tail`: see `layout_of`. `embeddings`: where prompts find those of their audio.

        `recorder`: records decode steps; CUDA's own where it is None on CUDA.
        Raises LoadFailure where the device's memory is too small.
        """
        # The checkpoint, the blocks of each running sequence, and the encoded audio.
        self._loaded = loaded
        self._tables = BlockTables()
        self._embeddings = embeddings or Embeddings(loaded.device, 0)
        # What a step runs: the embedding of ids, the layers, and the head that gives logits.
        self._language = loaded.model.model.language_model
        self._head = loaded.model.lm_head
        self._embed = loaded.model.get_input_embeddings()
        self._language.config._attn_implementation = attention.NAME
        config = loaded.model.config.text_config
        self.bytes_per_token = bytes_per_token(config, loaded.dtype)
        budget = self._budget(settings.gpu_memory_fraction)
        self.blocks = budget // (self.bytes_per_token * BLOCK_TOKENS)
        # The longest prompt with its answer, in positions. It may have fewer rows, and these must
        # fit into the blocks.
        self.context_tokens = min(
            loaded.context_tokens, settings.max_context_tokens or MOST_CONTEXT_TOKENS
        )
        # One more block, where rows that only fill up a batch are written.
        shape = (self.blocks + 1, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
        # Zeros: see `_clear`.
        tensors = [
            torch.zeros(shape, dtype=loaded.dtype, device=loaded.device)
            for _ in range(2 * config.num_hidden_layers)
        ]
        # One tensor of each for every layer.
        self._keys, self._values = tensors[::2], tensors[1::2]
        # Float [blocks, block size], added to the scores of attention to a row in every layer;
        # see `Layout`.
        self._log_weights: torch.Tensor | None = None
        if window_tail != EXACT:
            self._log_weights = torch.zeros(shape[:2], device=loaded.device)
        # None: decodes share a packed step with prompts.
        self.steps: DecodeSteps | None = None
        if loaded.device.type == "cuda" or settings.enable_torch_compile:
            self.steps = self._decode_steps(settings, recorder)

    def prepare(self) -> None:
        """Compile and record decode steps, so that no caller waits for that."""
        if self.steps is not None:
            self.steps.prepare()

    @property
    def attention(self) -> str:
        """How decodes attend: `paged` reads the blocks in place, `gathered` copies them."""
        return self.steps.attention if self.steps is not None else "gathered"

    @property
    def kv_tensors(self) -> list[torch.Tensor]:
        """The KV cache: keys and values of each layer; empty once the runner has let go."""
        return [*self._keys, *self._values]

    @torch.inference_mode()
    def step(self, chunks: list[Chunk]) -> torch.Tensor:
        """Compute chunks, of which decodes come first, the shorter before the longer.

        Returns logits, float [chunks that want them, vocabulary], in the order of the chunks.
        A step changes nothing but the slots of the chunks' own tokens, so a step that failed
        may be run again, whole or in parts.
        """
        decodes = sum(chunk.is_decode for chunk in chunks)
        if self.steps is None or not decodes:
            return self._packed(chunks)
        logits = self.steps.run([self._row(chunk) for chunk in chunks[:decodes]])
        if decodes == len(chunks):
            return logits
        return torch.cat([logits, self._packed(chunks[decodes:])])

    @torch.inference_mode()
    def try_prefill(self, rows: int) -> None:
        """Compute a prompt of so many tokens, to see how long that takes; wait until it is done.

        Only before the first sequence is placed: it writes into the first blocks.
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
    def place(self, sequence: Sequence) -> None:
        """Make the blocks that a sequence was given ready for it; may be repeated."""
        self._tables.place(sequence)
        self._clear(self._tables.new_blocks(sequence))
        self._weigh(sequence)

    def release(self, sequence_id: int) -> None:
        """Forget a sequence that runs no more."""
        self._tables.release(sequence_id)

    def _clear(self, blocks: torch.Tensor) -> None:
        """Zero these blocks, int64 [n].

        Attention multiplies what its mask hides by 0, and NaN that another sequence left there
        would survive that.
        """
        chosen = blocks.to(self._loaded.device)
        for tensor in self.kv_tensors:
            tensor.index_fill_(0, chosen, 0.0)

    def _weigh(self, sequence: Sequence) -> None:
        """Write the weights of the rows that a sequence has yet to compute, answer included.

        Once for its whole stay, as they depend on the lengths of its audio alone. The rows that
        it found in the cache have theirs.
        """
        if self._log_weights is None:
            return
        slots = self._tables.new_slots(sequence)
        weights = torch.zeros(len(slots))
        rest = sequence.prompt.log_weights[sequence.stored :]
        weights[: len(rest)] = torch.tensor(rest)
        device = self._loaded.device
        self._log_weights.view(-1).index_copy_(0, slots.to(device), weights.to(device))

    def let_go(self) -> None:
        """Give the memory of the KV cache and of recorded steps back; no step may follow."""
        self._keys.clear()
        self._values.clear()
        self._log_weights = None
        self.steps = None

    def answers(self) -> bool:
        """Whether the device still computes. Asked after a failure."""
        try:
            return bool(torch.ones(1, device=self._loaded.device).sum().item() == 1.0)
        except RuntimeError:
            return False

    def _decode_steps(self, settings: Settings, recorder: Recorder | None) -> DecodeSteps:
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
            recorder=recorder,
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
        """Logits, as those of `step`, of chunks that are packed into one batch."""
        device = self._loaded.device
        positions = [position for chunk in chunks for position in chunk.positions]
        with attending(pack(chunks, self._tables, self._keys, self._values, self._log_weights)):
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
        """Bytes for the KV cache. Raises LoadFailure where a GPU has too few of them."""
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
        """Input embeddings, float [rows, hidden size]; the rows of audio get those of the sound."""
        ids = [token for chunk in chunks for token in chunk.ids]
        rows: torch.Tensor = self._embed(torch.tensor(ids, device=self._loaded.device))
        offset = 0
        for chunk in chunks:
            for span in chunk.sequence.prompt.spans:
                first, stop = max(chunk.start, span.start), min(chunk.stop, span.stop)
                if first < stop:
                    to = offset + first - chunk.start
                    part = self._embeddings.rows(span.audio, first - span.start, stop - span.start)
                    rows[to : to + stop - first] = part
            offset += chunk.stop - chunk.start
        return rows

    def _row(self, chunk: Chunk) -> Row:
        (token_id,) = chunk.ids
        blocks, skipped = self._tables.blocks(chunk), chunk.sequence.prompt.skipped
        return Row(token_id, chunk.start, blocks, skipped)


def bytes_per_token(config: object, dtype: torch.dtype) -> int:
    """Bytes of KV cache that a token takes; `config`: transformers' for the text model."""
    layers, heads = config.num_hidden_layers, config.num_key_value_heads  # type: ignore[attr-defined]
    size: int = config.head_dim  # type: ignore[attr-defined]
    return int(2 * layers * heads * size * dtype.itemsize)


def cache_budget(free: int, total: int, reserved: int, memory_fraction: float) -> int:
    """Bytes for the KV cache of a GPU with `free` of `total` bytes.

    The worker may take `memory_fraction` of the total, of which it has `reserved` for weights.
    """
    room = min(free, int(total * memory_fraction) - reserved)
    return max(0, room - WORKING_BYTES)
