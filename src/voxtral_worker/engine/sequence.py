"""One response inside the engine: its prompt, its tokens, its place in the KV cache."""

from typing import Any

from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Delta, Timings, Usage


class Sequence:
    """`prefilled` tokens of the prompt are in the cache; `token_ids` are the new ones.

    Owned by the engine thread.
    """

    def __init__(
        self, generation: Generation, prompt: Prompt, max_tokens: int, detokenizer: Detokenizer
    ) -> None:
        self.generation = generation
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.detokenizer = detokenizer
        self.cache: Any = None
        self.prefilled = 0
        self.token_ids: list[int] = []
        self.deltas: list[Delta] = []
        self.cache_key: bytes | None = None
        self.submitted_s = 0.0
        self.admitted_s = 0.0
        self.encoded_s = 0.0
        self.first_token_s = 0.0

    @property
    def urgency(self) -> int:
        """See Schedulable."""
        return self.generation.request.urgency

    @property
    def needs_prefill(self) -> bool:
        """See Schedulable."""
        return self.prefilled < len(self.prompt.ids)

    def usage(self, cached_tokens: int = 0) -> Usage:
        """Tokens so far."""
        return Usage(len(self.prompt.ids), len(self.token_ids), cached_tokens)

    def timings(self) -> Timings:
        """Stages so far; one that was not reached is 0."""
        return Timings(
            queue_s=max(0.0, self.admitted_s - self.submitted_s),
            encode_s=max(0.0, self.encoded_s - self.admitted_s),
            prefill_s=max(0.0, self.first_token_s - self.encoded_s),
        )
