"""Training batches: what is left out of a window must not change what is learned."""

import math
import random

import numpy as np
import pytest
import torch
from transformers import VoxtralEncoder, WhisperFeatureExtractor

from builder.voxtral_tiny import features, model
from builder.voxtral_tiny.batch import AUDIO_PLACE, Batcher
from builder.voxtral_tiny.evaluation import edits
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.features import GROUPS, HeardUtterance, SampledWindow, sample_window
from builder.voxtral_tiny.tokenizer import CALLS, END_TOOLS, RESULTS, TOOLS
from voxtral_worker.engine.layout import SAMPLED, layout_of

WIDTH = 8


class Letters:
    """A tokenizer with a token for each character."""

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        return [40 + ord(letter) for letter in s]


def heard(*sentences: str, seconds: float = 1.0) -> HeardUtterance:
    window = sample_window(int(seconds * 16_000))
    return HeardUtterance(sentences, window, np.ones((len(window.groups), WIDTH), np.float16))


def new_batcher() -> Batcher:
    return Batcher(Letters(), ExampleMaker([], seed=3))


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("samples", [0, 1, 16_000, 200_000, 440_000, 480_000])
def test_the_groups_of_a_window_stand_for_all_of_it(samples: int, seed: int | None) -> None:
    window = sample_window(samples, None if seed is None else random.Random(seed))
    assert len(window.bias) == len(window.groups)
    assert window.groups[: window.sound] == list(range(window.sound))
    assert window.sound * features.GROUP_SAMPLES >= samples
    assert window.groups == sorted(set(window.groups))
    assert window.groups[-1] == GROUPS - 1
    assert sum(map(math.exp, window.bias)) == pytest.approx(GROUPS)


@pytest.mark.parametrize("samples", [0, 16_000, 100_001, 400_000, 479_999])
def test_training_sees_the_rows_that_the_engine_samples(samples: int) -> None:
    window, layout = sample_window(samples), layout_of(samples, SAMPLED)
    assert tuple(window.groups) == layout.places
    assert window.bias == pytest.approx(layout.log_weights)


def test_a_sampled_window_is_encoded_as_the_whole_one() -> None:
    torch.manual_seed(1)
    tower = VoxtralEncoder(model.make_config().audio_config).eval()
    window = sample_window(16_000)
    hum = np.zeros(480_000, np.float32)
    hum[:16_000] = 0.1 * np.sin(np.arange(16_000) / 5)
    extractor = WhisperFeatureExtractor(feature_size=model.MELS)
    whole = torch.from_numpy(extractor._torch_extract_fbank_features(hum[None]))
    part = whole[:, :, : (window.sound + 2) * features.GROUP_FRAMES]
    everything = SampledWindow(GROUPS, list(range(GROUPS)), [0.0] * GROUPS)
    unweighted = SampledWindow(window.sound, window.groups, [0.0] * len(window.bias))
    with torch.no_grad():
        wanted = features.encode(tower, whole, everything)[:, window.groups]
        library = tower(whole).last_hidden_state
        assert torch.allclose(
            features.encode(tower, whole, everything).reshape(library.shape), library, atol=1e-4
        )
        error = (features.encode(tower, part, window) - wanted).abs().mean()
        without_weights = (features.encode(tower, part, unweighted) - wanted).abs().mean()
    assert error < 0.1 * wanted.abs().mean()
    assert error < 0.6 * without_weights


def test_each_utterance_is_used_once_at_its_own_positions() -> None:
    said = [heard("yes", seconds=0.3 * n) for n in range(1, 5)]
    for batch in new_batcher().draw(said, 6, turns=3):
        is_audio = batch.ids == AUDIO_PLACE
        assert (is_audio == (batch.audio_index >= 0)).all()
        rows = batch.audio_index[is_audio] // batch.states.shape[1]
        assert sorted(set(rows.tolist())) == list(range(len(batch.states)))
        assert len(set(batch.audio_index[is_audio].tolist())) == is_audio.sum()
        for row, positions in zip(batch.key_bias, batch.positions, strict=True):
            assert (positions[row > -torch.inf].diff() >= 1).all()


def test_a_window_weighs_as_much_as_375_tokens_in_a_prompt() -> None:
    for batch in new_batcher().draw([heard("yes")], 2, turns=1):
        audio = (batch.ids == AUDIO_PLACE).any(1)
        weights = batch.key_bias.exp() * (batch.ids == AUDIO_PLACE)
        assert torch.allclose(weights.sum(1)[audio], torch.tensor(float(GROUPS)))


def test_only_answers_are_learned() -> None:
    for batch in new_batcher().draw([heard("yes"), heard()], 4, turns=1):
        learned = batch.labels != -100
        assert learned.any(1).all()
        assert (batch.ids[learned] == batch.labels[learned]).all()


def test_tools_stand_before_the_last_turn_and_calls_are_learned() -> None:
    batcher = new_batcher()
    said = [heard("turn on the kitchen light"), heard("yes"), heard()]
    calls = results = 0
    for _ in range(60):
        batch = batcher.draw_tools(said, 4)
        for ids, labels in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
            assert ids.count(TOOLS) == ids.count(END_TOOLS) == 1
            learned = [label for label in labels if label != -100]
            assert learned
            calls += CALLS in learned
            results += RESULTS in ids[ids.index(TOOLS) :]
            assert RESULTS not in learned
            assert TOOLS not in learned
    assert calls > 5
    assert results > 2


def test_edits_count_insertions_deletions_and_replacements() -> None:
    assert edits("a b c".split(), "a b c".split()) == 0
    assert edits("a b c".split(), "a x c d".split()) == 2
    assert edits("a b c".split(), []) == 3
