"""What takes the device's memory, and how much of it conversations get on a given card."""

from dataclasses import dataclass

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.model_runner import ModelRunner, bytes_per_token, cache_budget

# What CUDA and its libraries take before the first tensor; an estimate.
CONTEXT_BYTES = 512 << 20


@dataclass(frozen=True)
class CardPlan:
    """Tokens of KV cache that fit beside the weights, and sessions that these are enough for."""

    kv_tokens: int
    sessions: int


def plan(card_bytes: int, loaded: LoadedModel, fraction: float, session_tokens: int) -> CardPlan:
    """What a card of this memory holds, by the rules that the engine sizes its cache by."""
    weights = weight_bytes(loaded)
    free = card_bytes - CONTEXT_BYTES - weights
    token = bytes_per_token(loaded.model.config.text_config, loaded.dtype)
    blocks = cache_budget(free, card_bytes, weights, fraction) // (token * BLOCK_TOKENS)
    tokens = blocks * BLOCK_TOKENS
    return CardPlan(tokens, tokens // session_tokens)


def weight_bytes(loaded: LoadedModel) -> int:
    """What the model's parameters take."""
    return sum(parameter.nbytes for parameter in loaded.model.parameters())


class DeviceBytes:
    """Publishes what takes the device's memory; `other` is activations, recordings, buffers."""

    def __init__(self, loaded: LoadedModel, runner: ModelRunner) -> None:
        self._device = loaded.device
        self._known = {
            "weights": weight_bytes(loaded),
            # With the spare block.
            "kv_cache": (runner.blocks + 1) * BLOCK_TOKENS * runner.bytes_per_token,
        }

    def publish(self, embeddings: int) -> None:
        """Set the gauges; `embeddings` is bytes. On a CPU nobody knows of others."""
        uses = {**self._known, "embeddings": embeddings}
        allocated = 0
        if self._device.type == "cuda":
            allocated = torch.cuda.memory_allocated(self._device)
        uses["other"] = max(0, allocated - sum(uses.values()))
        for use, size in uses.items():
            metrics.device_bytes.labels(use).set(size)
