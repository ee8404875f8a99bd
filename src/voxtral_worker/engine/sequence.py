"""One response inside the engine: its prompt, its tokens, its place in the KV cache."""

import torch

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, Admission
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Delta, Timings, Usage


class Sequence:
    """The first `stored` of its tokens are in the KV cache; `token_ids` are the new ones.

    Owned by the engine thread.
    """

    def __init__(
        self, generation: Generation, prompt: Prompt, max_tokens: int, detokenizer: Detokenizer
    ) -> None:
        self.generation = generation
        # For whose next turn its blocks are kept.
        self.owner = generation.request.owner
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.detokenizer = detokenizer
        self.blocks: tuple[int, ...] = ()
        self.block_ids = torch.zeros(0, dtype=torch.long)
        self.slots = torch.zeros(0, dtype=torch.long)
        self.cached_tokens = 0
        self.stored = 0
        self.token_ids: list[int] = []
        self.deltas: list[Delta] = []
        self.response_key: bytes | None = None
        self.submitted_s = 0.0
        self.admitted_s = 0.0
        self.encoded_s = 0.0
        self.first_token_s = 0.0

    @property
    def urgency(self) -> int:
        """See Schedulable."""
        return self.generation.urgency

    @property
    def needs_prefill(self) -> bool:
        """See Schedulable."""
        return self.stored < len(self.prompt.ids)

    @property
    def most_tokens(self) -> int:
        """How long it may become, prompt and answer."""
        return len(self.prompt.ids) + self.max_tokens

    def place(self, admission: Admission) -> None:
        """Take the blocks it was given."""
        self.blocks = admission.blocks
        self.stored = self.cached_tokens = admission.cached_tokens
        self.block_ids = torch.tensor(admission.blocks, dtype=torch.long)
        first = self.block_ids[:, None] * BLOCK_TOKENS
        self.slots = (first + torch.arange(BLOCK_TOKENS)).flatten()

    def ids(self, start: int, stop: int) -> list[int]:
        """Its tokens [start, stop), of the prompt and behind it."""
        prompt = self.prompt.ids
        new = self.token_ids[max(0, start - len(prompt)) : max(0, stop - len(prompt))]
        return [*prompt[start:stop], *new]

    def stored_keys(self) -> list[int]:
        """What is in the KV cache, token by token."""
        return [*self.prompt.keys, *self.token_ids][: self.stored]

    def waiting_audio(self) -> list[Audio]:
        """Audio whose embeddings the rest of the prompt needs and that has none yet."""
        return [
            audio
            for start, audio in self.prompt.spans
            if audio.embeddings is None and start + audio.tokens > self.stored
        ]

    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(len(self.prompt.ids), len(self.token_ids), self.cached_tokens)

    def timings(self) -> Timings:
        """Stages so far; one that was not reached is 0."""
        return Timings(
            queue_s=max(0.0, self.admitted_s - self.submitted_s),
            encode_s=max(0.0, self.encoded_s - self.admitted_s),
            prefill_s=max(0.0, self.first_token_s - self.encoded_s),
        )
