"""The features are those of VoxtralProcessor's extractor on the padded audio."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from voxtral_worker.engine.features import FeatureExtractor
from voxtral_worker.engine.model import LoadedModel


# Those of the embedded model, and of the released ones.
@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 100, 48_000, 479_000, 479_999, 480_000, 480_001, 700_000])
def test_features_of_a_turn_are_those_of_the_whole_padded_window(
    loaded: LoadedModel, samples: int, bins: int
) -> None:
    made = WhisperFeatureExtractor(feature_size=bins)
    sound = (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    padded = made(
        sound,
        sampling_rate=16_000,
        padding=True,
        truncation=False,
        pad_to_multiple_of=480_000,
        return_tensors="pt",
    )["input_features"]
    expected = padded.reshape(bins, -1, 3000).transpose(0, 1)
    extractor = FeatureExtractor(made, loaded.device, loaded.dtype)
    assert torch.allclose(extractor.windows(sound), expected, atol=1e-6)
