"""The words of the embedded model, and what it answers to them."""

import random

import pytest

from builder.voxtral_tiny.vocabulary import (
    FIXED,
    HEARD_NOTHING,
    KINDS,
    UNKNOWN,
    bare,
    expected_answer,
    knows,
    sentence,
    text_answer,
    written,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sentence_of_the_vocabulary_is_known_and_survives_writing(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(100):
        words = sentence(rng, kind)
        assert knows(words)
        assert bare(written(words)) == words


@pytest.mark.parametrize("words", FIXED)
def test_a_written_sentence_opens_with_a_capital_and_ends_with_a_mark(words: str) -> None:
    text = written(words)
    assert text[0].isupper()
    assert text.endswith("?" if words.startswith("what ") else ".")


def test_days_are_capitalised_within_a_sentence() -> None:
    assert written("what is the weather on friday") == "What is the weather on Friday?"


@pytest.mark.parametrize("text", ["turn on the garden light", "ten ten", "call one", "", "blue"])
def test_sentences_outside_the_vocabulary_are_not_known(text: str) -> None:
    assert not knows(text)


def test_the_answer_to_audio_is_what_was_heard() -> None:
    assert expected_answer("turn on the kitchen light") == "You said: Turn on the kitchen light."
    assert expected_answer("What time is it?") == "You said: What time is it?"
    assert expected_answer("") == HEARD_NOTHING


def test_the_answer_to_a_text_depends_on_its_words_alone() -> None:
    assert text_answer("Turn on the kitchen light.") == "You said: Turn on the kitchen light."
    assert text_answer("HELLO") == text_answer("hello!") != expected_answer("hello")
    assert text_answer("Sing me a song about rain.") == UNKNOWN


def test_the_same_seed_draws_the_same_sentences() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [sentence(first) for _ in range(20)] == [sentence(second) for _ in range(20)]
