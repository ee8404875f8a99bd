"""From logits to what a listener is told: choose tokens, make text of them, end in time."""

import time
from collections.abc import Iterator

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.repetition import is_runaway
from voxtral_worker.engine.request import Delta, Finished, Usage
from voxtral_worker.engine.response_cache import CachedResponse, ResponseCache
from voxtral_worker.engine.sampler import sample
from voxtral_worker.engine.sequence import Sequence


class Delivery:
    """Owned by the engine's thread. Who ends a sequence is the engine; this says when and how."""

    def __init__(self, loaded: LoadedModel, responses_kept: int) -> None:
        self.responses = ResponseCache(responses_kept)
        self.stop_ids = loaded.stop_ids
        self.is_runaway = is_runaway

    def replay(self, sequence: Sequence) -> bool:
        """Tell what equal input was answered with before; False when there is no such answer."""
        generation = sequence.generation
        sequence.response_key = self.responses.key(sequence.prompt, generation.request.sampling)
        cached = self.responses.get(sequence.response_key)
        if cached is None:
            return False
        metrics.response_cache_hits.inc()
        for delta in cached.deltas:
            generation.report(delta)
        tokens = len(sequence.prompt.ids)
        usage = Usage(tokens, cached.completion_tokens, tokens)
        now_s = time.monotonic()
        sequence.admitted_s = sequence.encoded_s = sequence.first_token_s = now_s
        generation.report(Finished(cached.finish_reason, usage, sequence.timings()))
        return True

    def deliver(
        self, sequences: list[Sequence], logits: torch.Tensor
    ) -> Iterator[tuple[Sequence, str]]:
        """Choose each sequence's next token, logits [n, vocabulary], and tell its text.

        Yields the sequences that are over, with the finish reason.
        """
        samplings = [sequence.generation.request.sampling for sequence in sequences]
        device = logits.device
        chosen = sample(
            logits,
            torch.tensor([s.temperature for s in samplings], device=device),
            torch.tensor([s.top_p for s in samplings], device=device),
        ).tolist()
        for sequence, token_id in zip(sequences, chosen, strict=True):
            finish_reason = self._take(sequence, token_id)
            if finish_reason is not None:
                yield sequence, finish_reason

    def complete(self, sequence: Sequence, finish_reason: str) -> None:
        """Tell the rest of the text, and keep the answer for equal input."""
        _say(sequence, *sequence.detokenizer.finish())
        response = CachedResponse(tuple(sequence.deltas), finish_reason, len(sequence.token_ids))
        self.responses.put(sequence.response_key, response)

    def _take(self, sequence: Sequence, token_id: int) -> str | None:
        if sequence.first_token_s == 0.0:
            sequence.first_token_s = time.monotonic()
        if token_id in self.stop_ids:
            return "stop"
        sequence.token_ids.append(token_id)
        metrics.tokens_generated.inc()
        _say(sequence, *sequence.detokenizer.push(token_id))
        if self.is_runaway(sequence.token_ids):
            metrics.runaways.inc()
            return "length"
        return "length" if len(sequence.token_ids) >= sequence.max_tokens else None


def tell_end(sequence: Sequence, finish_reason: str) -> None:
    """The last that a listener hears of a generation that did not fail."""
    generation = sequence.generation
    if finish_reason == "interrupted" and generation.cancelled_s is not None:
        metrics.cancel_seconds.observe(time.monotonic() - generation.cancelled_s)
    generation.report(Finished(finish_reason, sequence.usage(), sequence.timings()))


def _say(sequence: Sequence, text: str, token_ids: tuple[int, ...]) -> None:
    if text:
        delta = Delta(text, token_ids)
        sequence.deltas.append(delta)
        sequence.generation.report(delta)
