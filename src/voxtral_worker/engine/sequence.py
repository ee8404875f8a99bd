"""One response inside the engine, as plain data: its prompt, its tokens, its place in the cache.

A sequence holds no tensor and nothing of its caller. Tensors live with the part that computes
with them, and the caller's side is a `Response`; both are found by `sequence_id` and dropped
when the sequence is released.
"""

from collections.abc import Container

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.kv_cache import Admission, blocks_for
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Timings, Urgency, Usage


class Sequence:
    """The prompt and the tokens of one response. Owned by the engine's thread.

    The KV cache holds the first `stored` tokens of prompt and answer. `sequence_id` is never
    used twice by one engine.
    """

    def __init__(
        self,
        sequence_id: int,
        prompt: Prompt,
        max_tokens: int,
        *,
        urgency: Urgency = Urgency.TURN,
        owner: str | None = None,
        submitted_s: float = 0.0,
    ) -> None:
        """`max_tokens` limits the answer. Times are seconds of the monotonic clock."""
        self.sequence_id = sequence_id
        self.prompt = prompt
        self.max_tokens = max_tokens
        # A speculation becomes a turn when its caller commits it.
        self.urgency = urgency
        # The session that gets the blocks for its next turn; None: no session does.
        self.owner = owner
        # The blocks of KV cache that it holds while it runs, in the order of its tokens.
        self.blocks: tuple[int, ...] = ()
        # Tokens of the prompt that were in the cache when the sequence was admitted.
        self.cached_tokens = 0
        # Tokens whose keys and values are in the cache.
        self.stored = 0
        # Tokens that are computed before the next one is chosen: the prompt, and after the
        # sequence was put back also the answer so far.
        self.prefill_tokens = len(prompt.ids)
        # Stored tokens whose logits were finite. Only these may become a kept prefix.
        self.vouched = 0
        # The tokens of the answer so far.
        self.token_ids: list[int] = []
        # When each stage began; None: not reached yet.
        self.submitted_s = submitted_s
        self.admitted_s: float | None = None
        self.encoded_s: float | None = None
        self.first_token_s: float | None = None

    @property
    def needs_prefill(self) -> bool:
        """Whether part of its prompt is still to be computed."""
        return self.stored < self.prefill_tokens

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer that is allowed."""
        return len(self.prompt.ids) + self.max_tokens

    @property
    def blocks_needed(self) -> int:
        """Blocks of KV cache that it holds for as long as it runs; never changes."""
        return blocks_for(self.most_tokens)

    def place(self, admission: Admission) -> None:
        """Take blocks, the first tokens of which may be computed already."""
        self.blocks = admission.blocks
        self.stored = self.vouched = self.cached_tokens = admission.cached_tokens
        self.prefill_tokens = len(self.prompt.ids) + len(self.token_ids)

    def leave(self) -> tuple[int, ...]:
        """Give the blocks back with what they hold; the answer so far stays."""
        blocks, self.blocks = self.blocks, ()
        self.stored = self.vouched = 0
        return blocks

    def ids(self, start: int, stop: int) -> list[int]:
        """Token ids [start, stop) of prompt and answer."""
        prompt = self.prompt.ids
        new = self.token_ids[max(0, start - len(prompt)) : max(0, stop - len(prompt))]
        return [*prompt[start:stop], *new]

    def positions(self, start: int, stop: int) -> list[int]:
        """Positions of the tokens [start, stop)."""
        prompt = self.prompt
        first = max(start, len(prompt.ids))
        behind = range(first + prompt.skipped, stop + prompt.skipped)
        return [*prompt.positions[start:stop], *behind]

    def stored_keys(self) -> list[int]:
        """The keys of the stored tokens; `Prompt.keys` says what a key is."""
        return [*self.prompt.keys, *self.token_ids][: self.stored]

    def waiting_audio(self, encoded: Container[Audio]) -> list[Audio]:
        """Pieces that the rest of the prompt needs and that are not among the `encoded` ones."""
        return [
            span.audio
            for span in self.prompt.spans
            if span.stop > self.stored and span.audio not in encoded
        ]

    def stored_audio(self) -> list[Audio]:
        """Pieces whose rows the KV cache holds, so that their embeddings are needed no more."""
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
        """Seconds of each stage so far; 0 of a stage that did not end."""
        return Timings(
            queue_s=_between(self.submitted_s, self.admitted_s),
            encode_s=_between(self.admitted_s, self.encoded_s),
            prefill_s=_between(self.encoded_s, self.first_token_s),
        )


def _between(began_s: float | None, ended_s: float | None) -> float:
    return 0.0 if began_s is None or ended_s is None else max(0.0, ended_s - began_s)
