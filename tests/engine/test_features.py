"""The features are those of VoxtralProcessor's extractor on the padded audio."""

import numpy as np
import pytest
import torch

from voxtral_worker.engine.features import FeatureExtractor
from voxtral_worker.engine.model import LoadedModel


@pytest.mark.parametrize("samples", [1, 100, 48_000, 479_000, 479_999, 480_000, 480_001, 700_000])
def test_features_of_a_turn_are_those_of_the_whole_padded_window(
    loaded: LoadedModel, samples: int
) -> None:
    sound = (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)
    padded = loaded.processor.feature_extractor(
        sound,
        sampling_rate=16_000,
        padding=True,
        truncation=False,
        pad_to_multiple_of=480_000,
        return_tensors="pt",
    )["input_features"]
    expected = padded.reshape(128, -1, 3000).transpose(0, 1)
    extractor = FeatureExtractor(loaded.processor.feature_extractor, loaded.device, loaded.dtype)
    assert torch.allclose(extractor.windows(sound), expected, atol=1e-6)
