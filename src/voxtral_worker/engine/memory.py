"""Counts what takes the device's memory, and says how many tokens a given card holds."""

from dataclasses import dataclass

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.model_runner import ModelRunner, bytes_per_token, cache_budget

# An estimate of what CUDA and its libraries take before the first tensor.
CONTEXT_BYTES = 512 << 20


@dataclass(frozen=True)
class CardPlan:
    """Tokens of KV cache that fit next to the weights, and for how many sessions they suffice."""

    kv_tokens: int
    sessions: int


def plan(card_bytes: int, loaded: LoadedModel, fraction: float, session_tokens: int) -> CardPlan:
    """What a card of `card_bytes` holds; the engine sizes its cache by the same rules.

    `fraction`: the setting `GPU_MEMORY_FRACTION`. `session_tokens`: what one session keeps.
    """
    weights = weight_bytes(loaded)
    free = card_bytes - CONTEXT_BYTES - weights
    token = bytes_per_token(loaded.model.config.text_config, loaded.dtype)
    blocks = cache_budget(free, card_bytes, weights, fraction) // (token * BLOCK_TOKENS)
    tokens = blocks * BLOCK_TOKENS
    return CardPlan(tokens, tokens // session_tokens)


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes of the model's parameters."""
    return sum(parameter.nbytes for parameter in loaded.model.parameters())


class DeviceBytes:
    """Publishes what takes the device's memory; `other` is activations, recordings, buffers."""

    def __init__(self, loaded: LoadedModel, runner: ModelRunner) -> None:
        self._device = loaded.device
        self._known = {
            "weights": weight_bytes(loaded),
            "kv_cache": sum(tensor.nbytes for tensor in runner.kv_tensors),
        }

    def publish(self, embeddings: int) -> None:
        """Set the gauges; `embeddings` is in bytes. On a CPU `other` is not known, and 0."""
        uses = {**self._known, "embeddings": embeddings}
        allocated = 0
        if self._device.type == "cuda":
            allocated = torch.cuda.memory_allocated(self._device)
        uses["other"] = max(0, allocated - sum(uses.values()))
        for use, size in uses.items():
            metrics.device_bytes.labels(use).set(size)
