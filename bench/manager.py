"""transformers' own continuous batching, for comparison, with audio as virtual token ids.

Its manager takes token ids only. So the input embedding is replaced: it looks up ids beyond the
vocabulary in a pool of audio embeddings, and a prompt with audio is a plain list of ids.
"""

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM
from transformers.generation.continuous_batching import ContinuousBatchingManager

from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.engine.features import FeatureExtractor
from voxtral_worker.engine.layout import WINDOW_TOKENS
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import PromptEncoder

POOL_WINDOWS = 64
PAGE_TOKENS = 32
BLOCKS = 2000
BATCH_TOKENS = 512


class PooledEmbedding(torch.nn.Module):
    """Ids below the vocabulary's size are words; those above name rows of the pool."""

    def __init__(self, words: torch.nn.Embedding) -> None:
        super().__init__()
        self.words = words
        self.weight = words.weight
        self.vocabulary = len(words.weight)
        rows = POOL_WINDOWS * WINDOW_TOKENS
        self.pool = torch.zeros(rows, words.weight.shape[1], dtype=words.weight.dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows, float [..., hidden size], of ids [...]."""
        is_audio = ids >= self.vocabulary
        rows: torch.Tensor = self.words(ids.clamp(max=self.vocabulary - 1))
        if is_audio.any():
            rows[is_audio] = self.pool[(ids[is_audio] - self.vocabulary) % len(self.pool)]
        return rows


class Manager:
    """Groups of greedy requests of a fixed length, run by the library's manager."""

    def __init__(self, loaded: LoadedModel, tokens: int) -> None:
        """`loaded` must be this object's own: its modules are changed."""
        self._loaded = loaded
        self._prompts = PromptEncoder(loaded.tokenizer)
        self._features = FeatureExtractor(
            loaded.processor.feature_extractor, loaded.device, loaded.dtype
        )
        self._tokens = tokens
        config = loaded.model.config.text_config
        config._attn_implementation = "sdpa"
        model: Any = LlamaForCausalLM(config).eval()
        model.model, model.lm_head = loaded.model.model.language_model, loaded.model.lm_head
        self._embedding = PooledEmbedding(model.model.embed_tokens)
        model.model.embed_tokens = self._embedding
        self._windows = itertools.count()
        self._manager = ContinuousBatchingManager(
            model,
            GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=11),
            ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=BLOCKS,
                max_batch_tokens=BATCH_TOKENS,
                use_cuda_graph=False,
                use_async_batching=False,
            ),
        )
        self._manager.start()

    def generate(self, conversations: list[Conversation]) -> list[list[int]]:
        """The new tokens of each. Raises RuntimeError if one fails."""
        asked = [
            # No id ends an answer: all are made as long as the others'.
            self._manager.add_request(
                self._ids(conversation), max_new_tokens=self._tokens, eos_token_id=-1
            )
            for conversation in conversations
        ]
        done: dict[str, list[int]] = {}
        while len(done) < len(asked):
            result = self._manager.get_result(timeout=60)
            if result is None or result.error is not None:
                raise RuntimeError(f"the manager gave {result}")
            done[result.request_id] = list(result.generated_tokens)
        return [done[name] for name in asked]

    def stop(self) -> None:
        """End its thread."""
        self._manager.stop(block=True)

    def _ids(self, conversation: Conversation) -> list[int]:
        prompt = self._prompts.encode(conversation, 100_000)
        ids = list(prompt.ids)
        for span in prompt.spans:
            ids[span.start : span.stop] = self._virtual(span.audio.samples)
        return ids

    @torch.inference_mode()
    def _virtual(self, samples: NDArray[np.float32]) -> range:
        """Encode a piece of audio of one window; the ids of its rows, never used twice."""
        rows = self._loaded.model.get_audio_features(self._features.windows(samples)).pooler_output
        first = next(self._windows) * WINDOW_TOKENS
        at = first % len(self._embedding.pool)
        self._embedding.pool[at : at + WINDOW_TOKENS] = rows
        first += self._embedding.vocabulary
        return range(first, first + WINDOW_TOKENS)
