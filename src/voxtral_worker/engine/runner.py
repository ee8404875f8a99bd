"""Runs the model: windows to embeddings, prompts to the first logits, tokens to the next.

The simple form: every sequence has a cache of its own and decodes by itself. Nothing
outside this file knows that.
"""

import numpy as np
import torch
from transformers import DynamicCache

from voxtral_worker.engine.conversation import WINDOW_SAMPLES, Audio
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.sequence import Sequence

MEL_FRAMES_PER_WINDOW = 3000


class Runner:
    """The model's modules on one device; used by the engine thread only."""

    def __init__(self, loaded: LoadedModel, audio_token_id: int) -> None:
        self._loaded = loaded
        self._model = loaded.model
        self._audio_token_id = audio_token_id

    @torch.inference_mode()
    def encode(self, audio: Audio) -> None:
        """Fill in the embeddings of one piece of audio, float [375 * windows, hidden size]."""
        features = self._features(audio)
        embeddings = self._model.get_audio_features(features).pooler_output
        audio.embeddings = embeddings.to(self._loaded.dtype)
        audio.let_go_of_samples()

    @torch.inference_mode()
    def prefill(self, sequence: Sequence, tokens: int) -> torch.Tensor | None:
        """Compute the next `tokens` of the prompt; logits [1, vocabulary] when it was the last."""
        start = sequence.prefilled
        end = min(start + tokens, len(sequence.prompt.ids))
        if sequence.cache is None:
            sequence.cache = DynamicCache(config=self._model.config.text_config)
        embeddings = self._embed(sequence, start, end)
        logits = self._forward(sequence, embeddings)
        sequence.prefilled = end
        return None if sequence.needs_prefill else logits

    @torch.inference_mode()
    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """Logits [B, vocabulary] of the token after each sequence's newest."""
        rows = []
        for sequence in sequences:
            newest = torch.tensor([[sequence.token_ids[-1]]], device=self._loaded.device)
            rows.append(self._forward(sequence, self._model.get_input_embeddings()(newest)))
        return torch.cat(rows)

    def release(self, sequence: Sequence) -> None:
        """Give the sequence's memory back."""
        sequence.cache = None

    def answers(self) -> bool:
        """Whether the device still computes; asked after a step has failed."""
        try:
            return bool(torch.ones(1, device=self._loaded.device).sum().item() == 1.0)
        except RuntimeError:
            return False

    def _forward(self, sequence: Sequence, embeddings: torch.Tensor) -> torch.Tensor:
        before = sequence.cache.get_seq_length()
        try:
            output = self._model.model.language_model(
                inputs_embeds=embeddings, past_key_values=sequence.cache, use_cache=True
            )
        except RuntimeError:
            # Layers that got through have stored the tokens; a second try must not find them.
            sequence.cache.crop(before)
            raise
        logits: torch.Tensor = self._model.lm_head(output.last_hidden_state[:, -1])
        return logits

    def _embed(self, sequence: Sequence, start: int, end: int) -> torch.Tensor:
        ids = torch.tensor([sequence.prompt.ids[start:end]], device=self._loaded.device)
        embeddings: torch.Tensor = self._model.get_input_embeddings()(ids)
        is_audio = ids[0] == self._audio_token_id
        count = int(is_audio.sum())
        if count:
            before = sequence.prompt.ids[:start].count(self._audio_token_id)
            rows = torch.cat([_embeddings_of(audio) for audio in sequence.prompt.audio])
            embeddings[0, is_audio] = rows[before : before + count]
        return embeddings

    def _features(self, audio: Audio) -> torch.Tensor:
        """Log-mel features, float [windows, 128, 3000], as VoxtralProcessor makes them."""
        extracted = self._loaded.processor.feature_extractor(
            audio.samples.astype(np.float32, copy=False),
            sampling_rate=16_000,
            padding=True,
            truncation=False,
            pad_to_multiple_of=WINDOW_SAMPLES,
            return_tensors="pt",
            device=str(self._loaded.device),
        )["input_features"]
        size = extracted.shape[-2]
        windows = extracted.reshape(size, -1, MEL_FRAMES_PER_WINDOW).transpose(0, 1)
        features: torch.Tensor = windows.to(self._loaded.device, self._loaded.dtype)
        return features


def _embeddings_of(audio: Audio) -> torch.Tensor:
    assert isinstance(audio.embeddings, torch.Tensor)
    return audio.embeddings
