"""Turns the tokens of one response into text as they come.

Tokens are pieces of UTF-8, so a character may need several of them: what is incomplete is
held back, and with it the token, until the character is whole.
"""

import codecs
from typing import Protocol


class ByteTokenizer(Protocol):
    """What is used of mistral-common's Tekkenizer."""

    num_special_tokens: int

    def id_to_byte_piece(self, token_id: int, special_token_policy: object) -> bytes:
        """The bytes of one token."""


class Detokenizer:
    """State of one response; joined, the texts it returns are the whole text."""

    def __init__(self, tokenizer: ByteTokenizer, special_policy: object) -> None:
        self._tokenizer = tokenizer
        self._special_policy = special_policy
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[int] = []

    def push(self, token_id: int) -> tuple[str, tuple[int, ...]]:
        """Text that is complete with this token, and the tokens it is made of; or ("", ())."""
        self._held.append(token_id)
        if token_id < self._tokenizer.num_special_tokens:
            return "", ()
        piece = self._tokenizer.id_to_byte_piece(token_id, self._special_policy)
        return self._release(self._decoder.decode(piece))

    def finish(self) -> tuple[str, tuple[int, ...]]:
        """What is left: a character that never became whole ends as U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True))

    def _release(self, text: str) -> tuple[str, tuple[int, ...]]:
        if not text:
            return "", ()
        # A character may end inside the newest token while another begins: the token counts
        # as delivered with its first text, as no token can be delivered by halves.
        held, self._held = tuple(self._held), []
        return text, held
