"""Training batches: what is left out of a window must not change what is learned."""

import numpy as np
import torch

from builder.voxtral_tiny import forward, model
from builder.voxtral_tiny.batch import AUDIO_PLACE, Batcher
from builder.voxtral_tiny.corpus import Clip
from builder.voxtral_tiny.evaluation import edits
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.voices import SAMPLE_RATE


class Letters:
    """A tokenizer with a token for each character."""

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        return [40 + ord(letter) for letter in s]


def new_batcher() -> Batcher:
    hum = (3000 * np.sin(np.arange(SAMPLE_RATE) / 5)).astype(np.int16)
    return Batcher(Letters(), ExampleMaker([Clip("yes", "none", hum)], seed=3))


def test_a_batch_sounds_like_its_whole_windows() -> None:
    net = model.new_model(1).eval()
    batch = next(new_batcher().draw(4, 0.0, several=0.0, most=1, turns=1, late=0.0))
    silent = batch.features[:, :, -1:].expand(-1, -1, 3000 - batch.features.shape[2])
    places = (batch.groups[:, None] * 4 + torch.arange(4)).flatten()
    with torch.no_grad():
        windows = torch.cat([batch.features, silent], 2)
        whole = net.model.audio_tower(windows).last_hidden_state[:, places]
        with_bias = (forward.encode(net, batch) - whole).abs().mean()
        batch.bias.zero_()
        without_bias = (forward.encode(net, batch) - whole).abs().mean()
    assert with_bias < 0.05 * whole.abs().mean()
    assert with_bias < 0.6 * without_bias


def test_each_utterance_is_used_once_at_its_own_positions() -> None:
    batch = next(new_batcher().draw(2, 1.0, several=0.0, most=1, turns=3, late=1.0))
    used = batch.audio_index[batch.audio_index >= 0]
    assert sorted(used.tolist()) == list(range(6 * len(batch.groups)))
    assert ((batch.ids == AUDIO_PLACE) == (batch.audio_index >= 0)).all()
    for row, positions in zip(batch.key_bias, batch.positions, strict=True):
        assert (positions[row > -torch.inf].diff() >= 1).all()


def test_only_answers_are_learned() -> None:
    batch = next(new_batcher().draw(4, 0.0, several=0.0, most=1, turns=1, late=0.0))
    learned = batch.labels != -100
    assert learned.any(1).all()
    assert (batch.ids[learned] == batch.labels[learned]).all()


def test_edits_count_insertions_deletions_and_replacements() -> None:
    assert edits("a b c".split(), "a b c".split()) == 0
    assert edits("a b c".split(), "a x c d".split()) == 2
    assert edits("a b c".split(), []) == 3
