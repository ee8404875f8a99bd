"""Texts are cut into sentences while they are written, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.speech.sentences import MAX_CHARACTERS, SentenceSplitter

ANSWER = (
    'Okay. Dr. Smith paid $3.50 at 9.30 a.m. today! He said: "Go home." Then he left.\n\n'
    "There are 2 steps:\n1. Open the door. 2. Close it again.\nIs it version 2.0.1? Yes... it is."
)


def cut(pieces: list[str], language: str | None = None) -> list[str]:
    splitter = SentenceSplitter(language)
    return [s for piece in pieces for s in splitter.push(piece)] + splitter.finish()


def words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")]


def test_titles_amounts_times_and_versions_end_no_sentence() -> None:
    assert [sentence.strip() for sentence in cut([ANSWER])] == [
        "Okay.",
        "Dr. Smith paid $3.50 at 9.30 a.m. today!",
        'He said: "Go home."',
        "Then he left.",
        "There are 2 steps:",
        "1. Open the door.",
        "2. Close it again.",
        "Is it version 2.0.1?",
        "Yes... it is.",
    ]


def test_a_text_that_comes_word_by_word_has_the_same_sentences() -> None:
    whole = [sentence.strip() for sentence in cut([ANSWER])]
    assert [sentence.strip() for sentence in cut(words(ANSWER))] == whole


def test_a_sentence_is_said_as_soon_as_the_next_begins() -> None:
    splitter = SentenceSplitter()
    assert splitter.push("The light is on. ") == []
    assert splitter.push("I") == ["The light is on. "]
    assert splitter.push(" did it") == []
    assert splitter.finish() == ["I did it"]


@given(st.lists(st.text(max_size=40)))
def test_the_sentences_joined_are_the_text_whatever_its_pieces_were(pieces: list[str]) -> None:
    sentences = cut(pieces)
    assert "".join(sentences) == "".join(pieces)


@pytest.mark.parametrize("letter", ["a", "word ", "one, two; ", "長"])
def test_a_sentence_without_end_is_cut_where_a_reader_would_breathe(letter: str) -> None:
    text = letter * 600
    sentences = cut([text])
    assert "".join(sentences) == text
    assert all(len(sentence) <= MAX_CHARACTERS for sentence in sentences)
    if " " in letter:
        assert all(sentence.endswith(" ") for sentence in sentences[:-1])


def test_another_language_has_its_own_sentence_ends() -> None:
    assert cut(["नमस्ते। आप कैसे हैं?"], "hi") == ["नमस्ते। ", "आप कैसे हैं?"]


def test_what_says_nothing_goes_with_what_does() -> None:
    assert cut(["1. Go. \n\n2. Stop."]) == ["1. Go. \n\n", "2. Stop."]
    assert cut(["  "]) == ["  "]
    assert cut([]) == []
