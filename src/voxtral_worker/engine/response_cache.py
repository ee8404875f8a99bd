"""Keeps answers for input that is equal to the last token, sample and setting."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import CallEvent, Delta, Sampling
from voxtral_worker.engine.tools import NO_TOOLS, Toolbox


@dataclass(frozen=True)
class CachedResponse:
    """The events of an answer, and how it ended."""

    told: tuple[Delta | CallEvent, ...]
    finish_reason: str
    completion_tokens: int


class ResponseCache:
    """Keeps the most recently used answers, at most `size`, of input that always gets the same one.

    Owned by the engine thread.
    """

    def __init__(self, size: int, window_tail: str = EXACT) -> None:
        self._size = size
        self._window_tail = window_tail
        self._responses: OrderedDict[bytes, CachedResponse] = OrderedDict()

    @property
    def answers(self) -> int:
        """How many answers are kept."""
        return len(self._responses)

    def key(self, prompt: Prompt, sampling: Sampling, tools: Toolbox = NO_TOOLS) -> bytes | None:
        """A hash of the input; None when its answer is not the same every time.

        The prompt says which tools are offered, but not what may or must be called.
        """
        if self._size == 0 or (sampling.temperature > 0 and sampling.seed is None):
            return None
        # Greedy answers depend neither on the seed nor on top_p.
        chance = (sampling.temperature, sampling.top_p, sampling.seed)
        wanted = (sampling.max_tokens, sampling.stop, chance if sampling.temperature > 0 else ())
        named = repr((prompt.ids, self._window_tail, wanted, sampling.schema, tools))
        digest = hashlib.sha256(named.encode(errors="surrogatepass"))
        for audio in prompt.audio:
            digest.update(audio.digest)
        return digest.digest()

    def get(self, key: bytes | None) -> CachedResponse | None:
        """The answer for a key, or None; it becomes the most recently used one."""
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
