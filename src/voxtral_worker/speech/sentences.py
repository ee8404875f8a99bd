"""Cuts a text into sentences while it is still being written."""

import re
from collections.abc import Iterable, Iterator

import sentencex

# A longer sentence is cut where a reader would breathe: speech of a sentence starts only when all
# of it is made, so a very long one would come late.
MAX_CHARACTERS = 240
# Without a language, sentences end as in English.
DEFAULT_LANGUAGE = "en"
# The first sentence of an answer may be cut at the first pause after this many characters. To say
# them takes some seconds, in which the model writes the rest.
EARLY_CHARACTERS = 24
_EARLY = re.compile(r"[;:,—–][ \t]+(?=\S)")
_LINES = re.compile(r"(?<=\n)(?!$)")
_BREATHS = (";", ":", ",", "—", "–", " ")


class SentenceSplitter:
    """The joined sentences are the text, however it was cut into pieces."""

    def __init__(self, language: str | None = None, *, is_early: bool = False) -> None:
        """`language` is an ISO 639-1 code. `is_early`: the first sentence may be cut in two."""
        self._language = language or DEFAULT_LANGUAGE
        self._text = ""
        self._is_early = is_early

    def push(self, text: str) -> list[str]:
        """Take text; returns the complete sentences. One is complete when the next has begun."""
        sentences = self._cut(self._text + text)
        self._text = "".join(sentences[-1:])
        whole = list(_bounded(sentences[:-1]))
        if self._is_early and not whole:
            whole = self._first_part()
        self._is_early = self._is_early and not whole
        *pieces, self._text = _bounded([self._text])
        return whole + pieces

    def finish(self) -> list[str]:
        """The remaining sentences."""
        sentences, self._text = self._cut(self._text), ""
        return sentences

    def _first_part(self) -> list[str]:
        if self._text.lstrip()[:1] in ("[", "{"):
            # JSON: its commas are not pauses.
            return []
        found = _EARLY.search(self._text, EARLY_CHARACTERS)
        if found is None:
            return []
        part, self._text = self._text[: found.end()], self._text[found.end() :]
        return [part]

    def _cut(self, text: str) -> list[str]:
        cut: list[str] = []
        # Every line ends a sentence: items of a list often have no full stop.
        lines = _LINES.split(text)
        for part in (part for line in lines for part in sentencex.segment(self._language, line)):
            # White space belongs to the sentence before it, and the number of a list's item to the
            # sentence after it.
            if cut and (not part.strip() or not _has_words(cut[-1])):
                cut[-1] += part
            else:
                cut.append(part)
        return cut


def _has_words(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _bounded(sentences: Iterable[str]) -> Iterator[str]:
    for text in sentences:
        rest = text
        while len(rest) > MAX_CHARACTERS:
            cut = _breath(rest)
            yield rest[:cut]
            rest = rest[cut:]
        yield rest


def _breath(text: str) -> int:
    """Where to cut a text that is too long: at the best mark near the limit."""
    for mark in _BREATHS:
        at = text.rfind(mark, MAX_CHARACTERS // 3, MAX_CHARACTERS - 1)
        if at >= 0:
            end = at + 1
            return end + 1 if text[end : end + 1] == " " else end
    return MAX_CHARACTERS
