"""Turns the tokens of one response into text as they come.

Tokens are pieces of UTF-8, so a character may need several of them. An incomplete character is
held back, with its tokens, until it is whole.
"""

import codecs
from typing import Protocol


class ByteTokenizer(Protocol):
    """The part of mistral-common's Tekkenizer that is used here."""

    num_special_tokens: int

    def id_to_byte_piece(self, token_id: int, special_token_policy: object) -> bytes:
        """The bytes of one token."""


class Detokenizer:
    """The detokenizer of one response; the texts that it returns make up the whole text."""

    def __init__(self, tokenizer: ByteTokenizer, special_policy: object) -> None:
        self._tokenizer = tokenizer
        self._special_policy = special_policy
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[int] = []

    def push(self, token_id: int) -> tuple[str, tuple[int, ...]]:
        """Take a token; returns the text that is complete with it and its tokens, or ("", ())."""
        self._held.append(token_id)
        if token_id < self._tokenizer.num_special_tokens:
            return "", ()
        piece = self._tokenizer.id_to_byte_piece(token_id, self._special_policy)
        return self._release(self._decoder.decode(piece))

    def finish(self) -> tuple[str, tuple[int, ...]]:
        """The rest of the text; a character that never became whole is U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True))

    def _release(self, text: str) -> tuple[str, tuple[int, ...]]:
        if not text:
            return "", ()
        # A character may end inside the newest token while another one begins. No token can be
        # delivered in halves, so it counts as delivered with its first text.
        held, self._held = tuple(self._held), []
        return text, held
