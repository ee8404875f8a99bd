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


LONG = "I can switch on the lamp for you, but first tell me, please, in which room it is. Well?"


def test_the_first_sentence_of_an_answer_is_said_from_its_first_breath_on() -> None:
    splitter = SentenceSplitter(is_early=True)
    said = [sentence for word in words(LONG) for sentence in splitter.push(word)]
    assert [*said, *splitter.finish()] == [
        "I can switch on the lamp for you, ",
        "but first tell me, please, in which room it is. ",
        "Well? ",
    ]


@pytest.mark.parametrize("text", ["Well, yes, it is on.", "It costs you in all 1,250,000 euros."])
def test_a_breath_that_comes_soon_or_within_a_number_parts_nothing(text: str) -> None:
    splitter = SentenceSplitter(is_early=True)
    assert [s for word in text for s in splitter.push(word)] == []
    assert splitter.finish() == [text]


def test_a_first_sentence_that_is_whole_already_is_not_parted() -> None:
    splitter = SentenceSplitter(is_early=True)
    assert splitter.push(LONG + " ")[0].endswith("it is. ")


@given(st.lists(st.text(alphabet="ab ,.;\n", max_size=40)))
def test_early_words_joined_with_the_rest_are_the_text(pieces: list[str]) -> None:
    splitter = SentenceSplitter(is_early=True)
    said = [sentence for piece in pieces for sentence in splitter.push(piece)]
    assert "".join([*said, *splitter.finish()]) == "".join(pieces)
