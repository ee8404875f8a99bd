"""Training batches: what is left out of a window must not change what is learned."""

import math
import random

import numpy as np
import pytest
import torch
from transformers import (
    VoxtralEncoder,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

from builder.voxtral_tiny import features, forward, model
from builder.voxtral_tiny.batch import AUDIO_PLACE, Batch, Batcher
from builder.voxtral_tiny.evaluation import edits
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.features import GROUPS, HeardUtterance, SampledWindow, sample_window
from builder.voxtral_tiny.probe import Probe
from builder.voxtral_tiny.prompts import Prompt, Text, Tree, Window
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


def test_tools_stand_before_every_turn_and_calls_are_learned() -> None:
    batcher = new_batcher()
    said = [heard("turn on the kitchen light"), heard("yes"), heard()]
    calls = results = others = 0
    for _ in range(40):
        batch = batcher.draw_tools(said, 2, turns=4)
        assert torch.equal(batch.labels[batch.labels != -100], batch.ids[batch.labels != -100])
        for ids, labels, branches in zip(batch.ids, batch.labels, batch.branches, strict=True):
            trunk = ids[branches == 0].tolist()
            assert trunk.count(TOOLS) == trunk.count(END_TOOLS) == 1
            for branch in range(1, int(branches.max()) + 1):
                whole = ids[branches == branch].tolist()
                learned = [i for i in labels[branches == branch].tolist() if i != -100]
                assert TOOLS not in whole
                assert learned
                assert RESULTS not in learned
                calls += learned[0] == CALLS
                results += RESULTS in whole
                others += CALLS not in whole
    assert calls > 40
    assert results > 10
    assert others > 40


def test_a_choice_teaches_nothing_but_whether_to_call() -> None:
    said = [heard("turn on the kitchen light"), heard("call home"), heard("yes"), heard()]
    batcher, calls, others = new_batcher(), 0, 0
    for _ in range(10):
        batch = batcher.draw_choices(said, 3, turns=2)
        for labels, branches in zip(batch.labels, batch.branches, strict=True):
            for branch in range(1, int(branches.max()) + 1):
                (first,) = [i for i in labels[branches == branch].tolist() if i != -100]
                calls += first == CALLS
                others += first in (40 + ord("Y"), 40 + ord("I"))
    assert calls > 10
    assert others > 10


def test_the_probe_counts_calls_and_the_answers_that_are_likeliest() -> None:
    torch.manual_seed(3)
    net = VoxtralForConditionalGeneration(model.make_config()).eval()
    window = sample_window(8000)
    states = np.zeros((len(window.groups), 1536), np.float16)
    said = [HeardUtterance((words,), window, states) for words in ("press one", "yes")]
    probe = Probe(new_batcher(), said)
    net.lm_head.weight.data.zero_()
    # All tokens are as likely, so the first of all is taken: nothing is right, nothing called.
    rates = probe.measure(net)
    assert set(rates) >= {"spoken calls, right", "typed others, called", "words, right"}
    assert set(rates.values()) == {0.0}


def test_a_branch_is_learned_as_if_it_stood_alone_behind_the_trunk() -> None:
    torch.manual_seed(2)
    # The encoder takes no part: only its states do.
    net = VoxtralForConditionalGeneration(model.make_config()).eval()
    states = np.random.default_rng(1).standard_normal((33, 1536)).astype(np.float16)
    window = sample_window(16_000)
    said = HeardUtterance(("yes",), window, states[: len(window.groups)])
    trunk: Prompt = [Text([1, *range(40, 60)])]
    spoken: Prompt = [Text([3, 25]), Window(0), Text([4]), Text([70, 71, 2], learned=True)]
    typed: Prompt = [Text([3, 80, 81, 4]), Text([90, 91, 92, 2], learned=True)]

    def found(*prompts: Prompt | Tree) -> Batch:
        # Positions from 0 on, no noise, and the same silent groups left out each time.
        maker = ExampleMaker([], seed=9)
        maker.random.random = lambda: 0.5  # type: ignore[method-assign]
        return Batcher(Letters(), maker).assemble([said], prompts)

    def loss(batch: Batch) -> float:
        batch.weights = torch.ones_like(batch.weights)
        with torch.no_grad():
            embeddings = net.model.multi_modal_projector(batch.states)
            return forward.answer_loss(net, batch, embeddings).item()

    tree = loss(found(Tree(trunk, [spoken, typed])))
    first, second = loss(found(trunk + spoken)), loss(found(trunk + typed))
    assert tree == pytest.approx((3 * first + 4 * second) / 7, rel=1e-5)
    together = loss(found(trunk + typed + spoken))
    assert together != pytest.approx(tree, rel=1e-5)


def test_edits_count_insertions_deletions_and_replacements() -> None:
    assert edits("a b c".split(), "a b c".split()) == 0
    assert edits("a b c".split(), "a x c d".split()) == 2
    assert edits("a b c".split(), []) == 3
