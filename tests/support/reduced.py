"""What `WINDOW_TAIL=sampled` computes, by the library's modules and without an engine.

The exact prompt and the exact window, of which rows are left out: each row that is left keeps its
place, and stands for its neighbours. Written apart from the engine, to be compared with it.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import DynamicCache

from voxtral_worker.engine.tail_probe import cache_argument

WINDOW, TOKEN = 480_000, 1280


def kept(samples: int) -> dict[int, float]:
    """The tokens of a piece of audio that are computed, with their log weights."""
    whole, rest = divmod(samples, WINDOW)
    if samples and not rest:
        whole, rest = whole - 1, WINDOW
    first = 375 * whole
    sound = min(375, math.ceil(rest / TOKEN) + 2)
    tail = 375 - sound
    weights = dict.fromkeys(range(first + sound), 0.0)
    if tail <= 16:
        return weights | dict.fromkeys(range(first + sound, first + 375), 0.0)
    edges = [Fraction(number * (tail - 1), 15) for number in range(16)]
    for low, high in itertools.pairwise(edges):
        weights[first + sound + math.floor((low + high) / 2)] = math.log(high - low)
    return weights | {first + 374: 0.0}


class Reduced:
    """A model that no engine touches; float32 on a CPU."""

    def __init__(self, model: Any, extractor: Any, audio_token_id: int) -> None:
        self._model = model
        self._extractor = extractor
        self._audio_token_id = audio_token_id

    @torch.inference_mode()
    def embeddings(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Of the tokens that are kept, [rows, hidden size]."""
        tower = self._model.model.audio_tower
        windows = max(1, -(-len(samples) // WINDOW))
        padded = np.zeros(windows * WINDOW, np.float32)
        padded[: len(samples)] = samples
        features = self._extractor(
            padded, sampling_rate=16_000, padding=False, truncation=False, return_tensors="pt"
        )["input_features"][0]
        weights = kept(len(samples))
        rows = []
        for number, window in enumerate(features.split(3000, dim=1)):
            states = F.gelu(tower.conv2(F.gelu(tower.conv1(window[None])))).transpose(1, 2)
            states = states + tower.embed_positions.weight
            tokens = [token for token in weights if token // 375 == number]
            places = [4 * (token % 375) + i for token in tokens for i in range(4)]
            bias = torch.tensor([weights[token] for token in tokens]).repeat_interleave(4)
            states = states[:, places]
            for layer in tower.layers:
                states = layer(states, bias.expand(1, 1, len(places), -1))
            states = tower.layer_norm(states)
            rows.append(states.reshape(len(tokens), -1))
        embeddings: torch.Tensor = self._model.model.multi_modal_projector(torch.cat(rows))
        return embeddings

    @torch.inference_mode()
    def logits(
        self,
        prompt: Sequence[int],
        sounds: Sequence[NDArray[np.float32]],
        most: int,
        stop: frozenset[int],
        forced: Sequence[int] | None = None,
    ) -> tuple[list[int], torch.Tensor]:
        """Greedy tokens behind the exact prompt, and the logits [tokens, vocabulary] of each.

        With `forced` tokens those, whatever is the best.
        """
        ids = torch.tensor(prompt)
        rows = self._model.get_input_embeddings()(ids)
        weights = torch.zeros(len(ids))
        is_kept = torch.ones(len(ids), dtype=torch.bool)
        places = (ids == self._audio_token_id).nonzero().flatten()
        at = 0
        for samples in sounds:
            of_piece = kept(len(samples))
            span = 375 * max(1, -(-len(samples) // WINDOW))
            piece = places[at : at + span]
            is_kept[piece] = False
            chosen = piece[torch.tensor(list(of_piece))]
            is_kept[chosen] = True
            weights[chosen] = torch.tensor(list(of_piece.values()))
            rows[chosen] = self.embeddings(samples)
            at += span
        return self._go_on(
            rows[is_kept], is_kept.nonzero().flatten(), weights[is_kept], most, stop, forced
        )

    def _go_on(
        self,
        rows: torch.Tensor,
        positions: torch.Tensor,
        weights: torch.Tensor,
        most: int,
        stop: frozenset[int],
        forced: Sequence[int] | None,
    ) -> tuple[list[int], torch.Tensor]:
        cache = DynamicCache(config=self._model.config.text_config)
        tokens: list[int] = []
        logits: list[torch.Tensor] = []
        while True:
            count = len(rows)
            mask = weights.repeat(count, 1)
            before = len(weights) - count
            hidden = torch.ones(mask.shape, dtype=torch.bool).triu(before + 1)
            states = self._model.model.language_model(
                inputs_embeds=rows[None],
                position_ids=positions[None],
                attention_mask=mask.masked_fill(hidden, -math.inf)[None, None],
                use_cache=True,
                **{cache_argument(self._model.model.language_model): cache},
            ).last_hidden_state[0, -1]
            logits.append(self._model.lm_head(states))
            tokens.append(forced[len(tokens)] if forced else int(logits[-1].argmax()))
            if len(tokens) == (len(forced) if forced else most) or tokens[-1] in stop:
                return tokens, torch.stack(logits)
            rows = self._model.get_input_embeddings()(torch.tensor(tokens[-1:]))
            positions = positions[-1:] + 1
            weights = torch.cat([weights, weights.new_zeros(1)])
