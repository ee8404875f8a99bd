"""The marks of Markdown are not spoken."""

import pytest

from voxtral_worker.speech.plain import as_spoken
from voxtral_worker.speech.sentences import SentenceSplitter


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("**Yes**, it *is* on.", "Yes, it is on."),
        ("## A title\n- one\n* two", "A title\none\ntwo"),
        ("> quoted", "quoted"),
        ("Use `make run` or ```\ncode\n```", "Use make run or \ncode"),
        (
            "See [the docs](https://example.com/x) and ![a lamp](lamp.png).",
            "See the docs and a lamp.",
        ),
        ("***", ""),
        ("**It goes on", "It goes on"),
        ("2 * 3 = 6", "2 * 3 = 6"),
        ("snake_case_name", "snake_case_name"),
        ("- 5 degrees? No: -5 degrees.", "5 degrees? No: -5 degrees."),
        ("a | b", "a , b"),
        ("It costs $5, e.g. today.", "It costs $5, e.g. today."),
    ],
)
def test_marks_are_left_out_and_words_stay(written: str, spoken: str) -> None:
    assert as_spoken(written) == spoken


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "set_device", "arguments": {"on": true}}]',
        ' {"name": "set_device", "arguments": {}}\n',
    ],
)
def test_a_call_that_is_written_as_text_is_not_read_out(text: str) -> None:
    assert as_spoken(text) == ""
    splitter = SentenceSplitter(is_early=True)
    pieces = [sentence for letter in text for sentence in splitter.push(letter)]
    assert [as_spoken(sentence) for sentence in (*pieces, *splitter.finish())] == [""]


@pytest.mark.parametrize("text", ["[laughs] {Oh} well.", "[1] See below.", "{", '[{"name": '])
def test_brackets_alone_silence_nothing(text: str) -> None:
    assert as_spoken(text) == text.strip()
