"""Utterances that training hears: what they say is what is in them."""

import numpy as np
import pytest

from builder.voxtral_tiny.augment import augment, background, line, scaled
from builder.voxtral_tiny.corpus import Clip
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.vocabulary import DIGITS
from builder.voxtral_tiny.voices import SAMPLE_RATE, Samples


def tone(seconds: float = 0.3) -> Samples:
    return (8000 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 5)).astype(np.int16)


def new_maker() -> ExampleMaker:
    clips = [Clip(word, voice, tone()) for word in DIGITS for voice in ("a", "b")]
    return ExampleMaker([*clips, Clip("open the door", "a", tone(1.0))], seed=2)


def test_an_utterance_is_long_enough_for_what_it_says_and_never_clips() -> None:
    maker, said, silent = new_maker(), set[str](), 0
    for _ in range(150):
        heard = maker.utterance(1.0, several=0.3)
        words = " ".join(heard.sentences).split()
        assert heard.samples.dtype == np.float32
        assert np.abs(heard.samples).max(initial=0.0) <= 1.0
        assert len(heard.samples) > 0.2 * SAMPLE_RATE * len(heard.sentences)
        silent += not heard.sentences
        said.update(words)
    assert set(DIGITS) <= said
    assert 0 < silent < 30


def test_a_number_is_read_out_with_the_digits_of_one_voice() -> None:
    maker = new_maker()
    for _ in range(30):
        clip = maker._read_out("b")
        words = clip.words.split()
        assert 2 <= len(words) <= 7
        assert set(words) <= set(DIGITS)
        assert len(clip.samples) >= len(words) * 0.3 * SAMPLE_RATE
        assert clip.voice == "b"


@pytest.mark.parametrize("seed", range(8))
def test_a_background_has_the_loudness_that_was_asked_for(seed: int) -> None:
    noise = background(10_001, 0.05, np.random.default_rng(seed))
    assert noise.shape == (10_001,)
    assert float(np.sqrt(np.mean(noise**2))) == pytest.approx(0.05, rel=1e-3)


def test_no_strength_leaves_a_clip_as_it_is() -> None:
    rng = np.random.default_rng(0)
    clip = scaled(tone().astype(np.float32), 0.1)
    assert np.array_equal(augment(clip, rng, 0.0), clip)
    assert np.array_equal(line(clip, rng, 0.0), clip)
    changed = [not np.array_equal(line(clip, rng, 1.0), clip) for _ in range(100)]
    assert 5 < sum(changed) < 60
