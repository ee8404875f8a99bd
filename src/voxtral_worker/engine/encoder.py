"""Turns pieces of audio into embeddings, a few windows of 30 s at a time.

A long recording is many windows: encoded in one go, it would hold up every answer that is
being spoken.
"""

from collections.abc import Iterable

import numpy as np
import torch

from voxtral_worker.engine.conversation import AUDIO_TOKENS_PER_WINDOW, WINDOW_SAMPLES, Audio
from voxtral_worker.engine.model import LoadedModel

MEL_FRAMES_PER_WINDOW = 3000
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 8}


class Encoder:
    """The audio tower and the projector; used by the engine thread only."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._at_once = WINDOWS_AT_ONCE[loaded.device.type]
        self._begun: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    @torch.inference_mode()
    def encode_some(self, waiting: Iterable[Audio]) -> None:
        """Encode the next few windows of the pieces that wait, the first ones first."""
        batch: list[tuple[Audio, torch.Tensor]] = []
        for audio in waiting:
            features, done = self._begin(audio)
            for window in features[len(done) :]:
                if len(batch) < self._at_once:
                    batch.append((audio, window))
        if not batch:
            return
        windows = torch.stack([window for _, window in batch])
        encoded = self._loaded.model.get_audio_features(windows).pooler_output
        rows = encoded.to(self._loaded.dtype).split(AUDIO_TOKENS_PER_WINDOW)
        for (audio, _), row in zip(batch, rows, strict=True):
            self._begun[audio.audio_id][1].append(row)
        for audio in {audio.audio_id: audio for audio, _ in batch}.values():
            self._finish(audio)

    def forget(self, audio: Iterable[Audio]) -> None:
        """Nobody waits for these any more; what was begun is let go."""
        for piece in audio:
            self._begun.pop(piece.audio_id, None)

    def _begin(self, audio: Audio) -> tuple[torch.Tensor, list[torch.Tensor]]:
        begun = self._begun.get(audio.audio_id)
        if begun is None:
            begun = self._begun[audio.audio_id] = (self._features(audio), [])
        return begun

    def _finish(self, audio: Audio) -> None:
        features, done = self._begun[audio.audio_id]
        if len(done) == len(features):
            del self._begun[audio.audio_id]
            audio.embeddings = torch.cat(done)
            audio.let_go_of_samples()

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
