"""One response inside the engine: its prompt, its tokens, its place in the KV cache."""

import torch

from voxtral_worker.engine.constraint import Constraint
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.grammar import Shape
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, Admission, blocks_for
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import CallEvent, Delta, Timings, Usage
from voxtral_worker.engine.stops import StopFilter
from voxtral_worker.engine.tools import NO_TOOLS


class Sequence:
    """The first `stored` of its tokens are in the KV cache; `token_ids` are the new ones.

    Owned by the engine thread.
    """

    def __init__(
        self,
        generation: Generation,
        prompt: Prompt,
        max_tokens: int,
        detokenizer: Detokenizer,
        constraint: Constraint | None = None,
    ) -> None:
        """`constraint`: what the answer may be; None: any text."""
        self.generation = generation
        # For whose next turn its blocks are kept.
        self.owner = generation.request.owner
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.detokenizer = detokenizer
        self.stops = StopFilter(generation.request.sampling.stop)
        self.constraint = constraint or Constraint(Shape(NO_TOOLS), None)
        self.blocks: tuple[int, ...] = ()
        self.block_ids = torch.zeros(0, dtype=torch.long)
        self.slots = torch.zeros(0, dtype=torch.long)
        self.cached_tokens = 0
        self.stored = 0
        # Tokens that are computed before the next one is chosen: the prompt, and after a
        # sequence was put back, what it had answered.
        self.prefill_tokens = len(prompt.ids)
        # Tokens in the KV cache that logits were made of, which were finite.
        self.vouched = 0
        self.token_ids: list[int] = []
        self.told: list[Delta | CallEvent] = []
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
        return self.stored < self.prefill_tokens

    @property
    def most_tokens(self) -> int:
        """How many rows it may become, prompt and answer."""
        return len(self.prompt.ids) + self.max_tokens

    @property
    def blocks_needed(self) -> int:
        """See Schedulable."""
        return blocks_for(self.most_tokens)

    def place(self, admission: Admission) -> torch.Tensor:
        """Take the blocks it was given; returns those that it does not know, int64 [n]."""
        self.blocks = admission.blocks
        self.stored = self.vouched = self.cached_tokens = admission.cached_tokens
        self.prefill_tokens = len(self.prompt.ids) + len(self.token_ids)
        self.block_ids = torch.tensor(admission.blocks, dtype=torch.long)
        first = self.block_ids[:, None] * BLOCK_TOKENS
        self.slots = (first + torch.arange(BLOCK_TOKENS)).flatten()
        return self.block_ids[blocks_for(admission.cached_tokens) :]

    def leave(self) -> tuple[int, ...]:
        """Give its blocks back, and with them what they hold; the answer so far stays."""
        blocks, self.blocks = self.blocks, ()
        self.stored = self.vouched = 0
        return blocks

    def ids(self, start: int, stop: int) -> list[int]:
        """Its tokens [start, stop), of the prompt and behind it."""
        prompt = self.prompt.ids
        new = self.token_ids[max(0, start - len(prompt)) : max(0, stop - len(prompt))]
        return [*prompt[start:stop], *new]

    def positions(self, start: int, stop: int) -> list[int]:
        """The positions of its rows [start, stop)."""
        prompt = self.prompt
        first = max(start, len(prompt.ids))
        behind = range(first + prompt.skipped, stop + prompt.skipped)
        return [*prompt.positions[start:stop], *behind]

    def stored_keys(self) -> list[int]:
        """What is in the KV cache, token by token."""
        return [*self.prompt.keys, *self.token_ids][: self.stored]

    def waiting_audio(self) -> list[Audio]:
        """Audio whose embeddings the rest of the prompt needs and that has none yet."""
        return [
            span.audio
            for span in self.prompt.spans
            if span.audio.embeddings is None and span.stop > self.stored
        ]

    def stored_audio(self) -> list[Audio]:
        """Audio that is in the KV cache, whose embeddings this response needs no more."""
        return [span.audio for span in self.prompt.spans if span.stop <= self.stored]

    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            len(self.prompt.ids),
            len(self.token_ids),
            self.cached_tokens,
            self.prompt.audio_rows,
        )

    def timings(self) -> Timings:
        """Stages so far; one that was not reached is 0."""
        return Timings(
            queue_s=max(0.0, self.admitted_s - self.submitted_s),
            encode_s=max(0.0, self.encoded_s - self.admitted_s),
            prefill_s=max(0.0, self.first_token_s - self.encoded_s),
        )
