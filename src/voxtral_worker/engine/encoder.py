"""Turns pieces of audio into embeddings, a few windows of 30 s at a time.

A long recording is many windows: encoded in one go, it would hold up every answer that is
being spoken.
"""

from collections.abc import Iterable

import torch

from voxtral_worker.engine.conversation import AUDIO_TOKENS_PER_WINDOW, Audio
from voxtral_worker.engine.features import FeatureExtractor
from voxtral_worker.engine.model import LoadedModel

WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 8}


class Encoder:
    """The audio tower and the projector; used by the engine thread only."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._at_once = WINDOWS_AT_ONCE[loaded.device.type]
        self._features = FeatureExtractor(
            loaded.processor.feature_extractor, loaded.device, loaded.dtype
        )
        self._begun: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    @torch.inference_mode()
    def encode_some(self, waiting: Iterable[Audio]) -> None:
        """Encode the next few windows of the pieces that wait, the first ones first."""
        batch: list[tuple[Audio, torch.Tensor]] = []
        # A piece that several sequences wait for is encoded once.
        for audio in {piece.audio_id: piece for piece in waiting}.values():
            if len(batch) == self._at_once:
                break
            features, done = self._begin(audio)
            batch += [(audio, window) for window in features[len(done) :]]
        batch = batch[: self._at_once]
        if not batch:
            return
        encoded = self.encode(torch.stack([window for _, window in batch]))
        rows = encoded.view(len(batch), AUDIO_TOKENS_PER_WINDOW, -1)
        for (audio, _), row in zip(batch, rows, strict=True):
            self._begun[audio.audio_id][1].append(row)
        for audio in {audio.audio_id: audio for audio, _ in batch}.values():
            self._finish(audio)

    @torch.inference_mode()
    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Embeddings, [375 * n, hidden size], of features [n, 128, 3000]."""
        embeddings = self._loaded.model.get_audio_features(windows).pooler_output
        return embeddings.to(self._loaded.dtype)  # type: ignore[no-any-return]

    def forget(self, audio: Iterable[Audio]) -> None:
        """Nobody waits for these any more; what was begun is let go."""
        for piece in audio:
            self._begun.pop(piece.audio_id, None)

    def _begin(self, audio: Audio) -> tuple[torch.Tensor, list[torch.Tensor]]:
        begun = self._begun.get(audio.audio_id)
        if begun is None:
            begun = self._begun[audio.audio_id] = (self._features.windows(audio.samples), [])
        return begun

    def _finish(self, audio: Audio) -> None:
        features, done = self._begun[audio.audio_id]
        if len(done) == len(features):
            del self._begun[audio.audio_id]
            audio.embeddings = torch.cat(done)
            audio.let_go_of_samples()
