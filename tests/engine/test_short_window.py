"""Windows of which a part is computed, compared with the library's modules."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import VoxtralConfig, VoxtralForConditionalGeneration, WhisperFeatureExtractor

from tests.support.batching import batcher_of
from tests.support.fake_recorder import FakeRecorder
from tests.support.reduced import Reduced
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.layout import SAMPLED, layout_of
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.short_window import FIXED_ROWS, fixed_rows

SECONDS = (0.0, 0.03, 0.9, 3.0, 11.0, 27.0, 28.5, 30.0, 33.0)


def noise(seconds: float) -> np.ndarray:
    samples = int(16_000 * seconds)
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def expected(loaded: LoadedModel, model: Any, seconds: float) -> torch.Tensor:
    return Reduced(model, loaded.processor.feature_extractor, -1).embeddings(noise(seconds))


def encoded(encoder: Encoder, loaded: LoadedModel, *seconds: float) -> list[torch.Tensor]:
    embeddings, batcher = batcher_of(encoder, loaded, SAMPLED)
    pieces = [Audio(noise(each)) for each in seconds]
    while waiting := [piece for piece in pieces if piece not in embeddings]:
        assert batcher.encode_some(waiting) == []
    return [embeddings.rows(piece, 0, 1000) for piece in pieces]


@pytest.mark.parametrize("seconds", SECONDS)
def test_what_is_computed_is_what_the_whole_window_has_there(
    light: LoadedModel, light_reference: Any, seconds: float
) -> None:
    (rows,) = encoded(Encoder(light, window_tail=SAMPLED), light, seconds)
    assert len(rows) == layout_of(len(noise(seconds)), SAMPLED).rows
    assert torch.allclose(rows, expected(light, light_reference, seconds), atol=2e-4)


@pytest.mark.parametrize("seconds", [0.9, 33.0])
def test_a_trained_encoder_computes_it_as_well(
    loaded: LoadedModel, reference: Any, seconds: float
) -> None:
    (rows,) = encoded(Encoder(loaded, window_tail=SAMPLED), loaded, seconds)
    assert len(rows) == layout_of(len(noise(seconds)), SAMPLED).rows
    assert torch.allclose(rows, expected(loaded, reference, seconds), atol=2e-4)


def test_windows_of_a_few_fixed_shapes_are_encoded_as_others_are(
    light: LoadedModel, light_reference: Any
) -> None:
    recorder = FakeRecorder()
    encoder = Encoder(light, recorder, window_tail=SAMPLED)
    encoder.at_once = 8
    seconds = (*SECONDS, 2.9, 3.1)
    for each, rows in zip(seconds, encoded(encoder, light, *seconds), strict=True):
        assert torch.allclose(rows, expected(light, light_reference, each), atol=2e-4), each
    shapes = {fixed_rows(layout_of(int(16_000 * each), SAMPLED)) for each in seconds[:6]}
    # Each with one batch size or two; and whole windows.
    assert recorder.recorded <= 2 * len(shapes) + 2


def test_every_fixed_shape_is_recorded_at_the_start(light: LoadedModel) -> None:
    recorder = FakeRecorder()
    encoder = Encoder(light, recorder, window_tail=SAMPLED)
    encoder.prepare()
    # Of whole windows one is encoded at a time on a CPU.
    assert recorder.recorded == 1 + 4 * len(FIXED_ROWS)
    encoded(encoder, light, 0.5, 3.0, 14.0, 28.0)
    assert recorder.recorded == 1 + 4 * len(FIXED_ROWS)


def test_short_windows_share_a_step_up_to_the_rows_of_a_whole_one(light: LoadedModel) -> None:
    embeddings, batcher = batcher_of(Encoder(light, window_tail=SAMPLED), light, SAMPLED)
    pieces = [Audio(noise(3.0)) for _ in range(9)]
    batcher.encode_some(pieces)
    # 56 rows each, of 375.
    assert sum(piece in embeddings for piece in pieces) == 6
    whole = [Audio(noise(30.0)), Audio(noise(3.0))]
    batcher.encode_some(whole)
    assert [piece in embeddings for piece in whole] == [True, False]


def test_an_encoder_of_another_shape_is_encoded_just_as_well() -> None:
    torch.manual_seed(1)
    audio = {
        "num_mel_bins": 80,
        "hidden_size": 48,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    text = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=24)
    model = VoxtralForConditionalGeneration(config).eval()
    extractor = WhisperFeatureExtractor(feature_size=80)
    other = LoadedModel(
        model,
        type("Processor", (), {"feature_extractor": extractor}),
        "",
        None,
        torch.device("cpu"),
        torch.float32,
    )
    (rows,) = encoded(Encoder(other, window_tail=SAMPLED), other, 3.0)
    assert rows.shape == (56, 32)
    assert torch.allclose(rows, Reduced(model, extractor, -1).embeddings(noise(3.0)), atol=2e-4)
