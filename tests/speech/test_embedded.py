"""The voice that comes with the worker: levels, silence, clicks, and what it says."""

import numpy as np
import pytest

from voxtral_worker.speech.embedded import EmbeddedVoice, in_pieces, trimmed, voices_there
from voxtral_worker.speech.voice import VOICE_RATE, Samples


@pytest.fixture(scope="module")
def voice() -> EmbeddedVoice:
    return EmbeddedVoice()


def say(voice: EmbeddedVoice, text: str, speed: float = 1.0) -> Samples:
    pieces = list(voice.say(text, voices_there()[0], speed))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def test_a_sentence_begins_at_once_and_ends_soon(voice: EmbeddedVoice) -> None:
    samples = say(voice, "The kitchen light is on now.")
    assert samples.dtype == np.float32
    assert 1.0 < len(samples) / VOICE_RATE < 3.0
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    assert loud[0] < 0.1 * VOICE_RATE
    assert len(samples) - loud[-1] < 0.4 * VOICE_RATE


def test_speech_is_loud_enough_and_neither_cut_nor_clicking(voice: EmbeddedVoice) -> None:
    samples = say(voice, "Okay, I can do that for you right away, in the living room.")
    assert 0.1 < float(np.abs(samples).max()) <= 1.0
    assert 0.02 < float(np.sqrt(np.mean(samples**2))) < 0.2
    # Where sentences meet, there is nothing to click.
    assert max(abs(samples[0]), abs(samples[-1])) < 0.001
    assert abs(float(samples.mean())) < 0.005


def test_the_same_text_always_sounds_the_same(voice: EmbeddedVoice) -> None:
    first, second = say(voice, "Yes."), say(voice, "Yes.")
    assert np.array_equal(first, second)


def test_numbers_and_abbreviations_take_as_long_as_their_words(voice: EmbeddedVoice) -> None:
    short = len(say(voice, "Dr. Smith paid $3.50."))
    long = len(say(voice, "Doctor Smith paid three dollars and fifty cents."))
    assert short == pytest.approx(long, rel=0.1)


def test_speed_makes_speech_longer_or_shorter(voice: EmbeddedVoice) -> None:
    text = "The kitchen light is on now, and the lamp in the living room as well."
    slow, usual, fast = [len(say(voice, text, speed)) for speed in (0.5, 1.0, 2.0)]
    assert slow > 1.6 * usual > 2.4 * fast


@pytest.mark.parametrize("text", ["", "   ", "😀", "世界", "\x00", "***"])
def test_a_text_without_words_has_no_sound(voice: EmbeddedVoice, text: str) -> None:
    assert len(say(voice, text)) < VOICE_RATE


def test_a_text_without_end_is_said_in_pieces(voice: EmbeddedVoice) -> None:
    assert len(say(voice, "hello " * 200)) > 30 * VOICE_RATE


def test_pieces_are_cut_at_spaces_and_lose_nothing() -> None:
    assert in_pieces("one two three", 8) == ["one two", " three"]
    assert in_pieces("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert in_pieces("  ", 4) == []


def test_silence_alone_is_nothing() -> None:
    assert len(trimmed(np.zeros(1000, np.float32))) == 0
    assert len(trimmed(np.zeros(0, np.float32))) == 0
