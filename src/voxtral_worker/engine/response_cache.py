"""Answers kept for input that is equal to the last token, sample and setting."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Delta, Sampling


@dataclass(frozen=True)
class CachedResponse:
    """What was streamed, and how it ended."""

    deltas: tuple[Delta, ...]
    finish_reason: str
    completion_tokens: int


class ResponseCache:
    """The most recently used answers, at most `size`; only greedy ones, as others vary.

    Owned by the engine thread.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._responses: OrderedDict[bytes, CachedResponse] = OrderedDict()

    def key(self, prompt: Prompt, sampling: Sampling) -> bytes | None:
        """Names the input; None when its answer is not the same every time."""
        if self._size == 0 or sampling.temperature > 0:
            return None
        digest = hashlib.sha256(repr((prompt.ids, sampling.max_tokens)).encode())
        for audio in prompt.audio:
            digest.update(audio.digest)
        return digest.digest()

    def get(self, key: bytes | None) -> CachedResponse | None:
        """The answer under a key, which becomes the most recently used."""
        if key is None or key not in self._responses:
            return None
        self._responses.move_to_end(key)
        return self._responses[key]

    def put(self, key: bytes | None, response: CachedResponse) -> None:
        """Keep an answer; the least recently used one goes when there are too many."""
        if key is None:
            return
        self._responses[key] = response
        self._responses.move_to_end(key)
        while len(self._responses) > self._size:
            self._responses.popitem(last=False)
