"""From logits to what a listener is told: choose tokens, make text of them, end in time."""

import dataclasses
import time

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.constraint import Masks
from voxtral_worker.engine.faults import Failures, attempt
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.repetition import is_runaway
from voxtral_worker.engine.request import (
    CallStarted,
    Delta,
    Finished,
    Usage,
)
from voxtral_worker.engine.response_cache import CachedResponse, ResponseCache
from voxtral_worker.engine.sampler import sample_rows, step_seed
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.tools import new_call_id
from voxtral_worker.errors import ToolCallInvalid

# The sampler needs about 3.4 MB a row of 131,072 logits.
ROWS_AT_ONCE = 32
NO_TOKEN = -1


class Delivery:
    """Owned by the engine's thread. Who ends a sequence is the engine; this says when and how."""

    def __init__(self, loaded: LoadedModel, responses_kept: int, window_tail: str = EXACT) -> None:
        self.responses = ResponseCache(responses_kept, window_tail)
        self.stop_ids = loaded.stop_ids
        self.masks = Masks.of(loaded.tokenizer, loaded.device)
        self.is_runaway = is_runaway

    def replay(self, sequence: Sequence) -> bool:
        """Tell what equal input was answered with before; False when there is no such answer."""
        generation = sequence.generation
        request = generation.request
        sequence.response_key = self.responses.key(
            sequence.prompt, request.sampling, request.conversation.tools
        )
        cached = self.responses.get(sequence.response_key)
        if cached is None:
            return False
        metrics.response_cache_hits.inc()
        for told in cached.told:
            if isinstance(told, CallStarted):
                # Ids are unique, whoever has asked the same before.
                told = dataclasses.replace(told, call_id=new_call_id())
            generation.report(told)
        prompt = sequence.prompt
        # None are told as cached: that somebody else has asked the same is nobody's business.
        usage = Usage(len(prompt.ids), cached.completion_tokens, 0, prompt.audio_rows)
        now_s = time.monotonic()
        sequence.admitted_s = sequence.encoded_s = sequence.first_token_s = now_s
        generation.report(Finished(cached.finish_reason, usage, sequence.timings()))
        return True

    def choose(
        self, sequences: list[Sequence], logits: torch.Tensor
    ) -> tuple[list[tuple[Sequence, int]], Failures[Sequence]]:
        """Each sequence's next token, of logits [n, vocabulary], and the sequences that have none.

        A row that is not finite fails its sequence, and nobody else.
        """
        chosen: list[tuple[Sequence, int]] = []
        failures: Failures[Sequence] = []
        lost = self.masks.apply(logits, [sequence.constraint for sequence in sequences])
        failures += [(sequences[row], error) for row, error in lost.items()]

        def choose(rows: list[tuple[int, Sequence]]) -> None:
            of_rows = logits[rows[0][0] : rows[-1][0] + 1]
            tokens = self._sample([sequence for _, sequence in rows], of_rows)
            chosen.extend(
                (sequence, token) for (_, sequence), token in zip(rows, tokens, strict=True)
            )

        numbered = list(enumerate(sequences))
        for start in range(0, len(numbered), ROWS_AT_ONCE):
            failed = attempt(numbered[start : start + ROWS_AT_ONCE], choose)
            failures += [(sequence, error) for (_, sequence), error in failed]
        nothing = FloatingPointError("the model computed numbers that are not finite")
        failures += [(sequence, nothing) for sequence, token in chosen if token == NO_TOKEN]
        is_lost = {id(sequence) for sequence, _ in failures}
        return [pair for pair in chosen if id(pair[0]) not in is_lost], failures

    def take(self, sequence: Sequence, token_id: int) -> str | None:
        """Tell the token's text; returns the finish reason of a sequence that is over."""
        if sequence.first_token_s == 0.0:
            sequence.first_token_s = time.monotonic()
        constraint = sequence.constraint
        if token_id in self.stop_ids:
            return self._end(sequence)
        sequence.token_ids.append(token_id)
        metrics.tokens_generated.inc()
        is_call = token_id == self.masks.call_token
        if is_call and constraint.parser is None:
            # What was held back of the text before is text.
            _finish_text(sequence)
        constraint.take(token_id, is_call=is_call)
        _say(sequence, *sequence.detokenizer.push(token_id))
        if constraint.is_over:
            return self._end(sequence)
        if sequence.stops.has_stopped and constraint.parser is None:
            return "stop"
        if self.is_runaway(sequence.token_ids):
            metrics.runaways.inc()
            return "length"
        return "length" if len(sequence.token_ids) >= sequence.max_tokens else None

    def complete(self, sequence: Sequence, finish_reason: str) -> None:
        """Tell the rest of the text, and keep the answer for equal input."""
        if sequence.constraint.parser is None:
            _finish_text(sequence)
        response = CachedResponse(tuple(sequence.told), finish_reason, len(sequence.token_ids))
        self.responses.put(sequence.response_key, response)

    def _end(self, sequence: Sequence) -> str:
        """Why a response is over that has said all it wanted. Raises ToolCallInvalid."""
        parser = sequence.constraint.parser
        if parser is None:
            return "stop"
        if not parser.is_whole:
            raise ToolCallInvalid("the model ended in the middle of a call of a tool")
        metrics.tool_calls.labels("made").inc(parser.calls)
        return "tool_calls"

    def _sample(self, sequences: list[Sequence], logits: torch.Tensor) -> list[int]:
        """A token for each, NO_TOKEN where the row is not finite."""
        samplings = [sequence.generation.request.sampling for sequence in sequences]
        token_ids, usable = sample_rows(
            logits,
            [each.temperature for each in samplings],
            [each.top_p for each in samplings],
            {
                row: step_seed(sampling.seed, len(sequence.token_ids))
                for row, (sequence, sampling) in enumerate(zip(sequences, samplings, strict=True))
                if sampling.seed is not None and sampling.temperature > 0
            },
        )
        return [
            token if is_usable else NO_TOKEN
            for token, is_usable in zip(token_ids, usable, strict=True)
        ]


def tell_end(sequence: Sequence, finish_reason: str) -> None:
    """The last that a listener hears of a generation that did not fail."""
    generation = sequence.generation
    if finish_reason == "interrupted" and generation.cancelled_s is not None:
        metrics.cancel_seconds.observe(time.monotonic() - generation.cancelled_s)
    generation.report(Finished(finish_reason, sequence.usage(), sequence.timings()))


def _say(sequence: Sequence, text: str, token_ids: tuple[int, ...]) -> None:
    if not text:
        return
    parser = sequence.constraint.parser
    if parser is None:
        _tell(sequence, *sequence.stops.push(text, token_ids))
        return
    for event in parser.push(text):
        sequence.told.append(event)
        sequence.generation.report(event)


def _finish_text(sequence: Sequence) -> None:
    _say(sequence, *sequence.detokenizer.finish())
    _tell(sequence, *sequence.stops.finish())


def _tell(sequence: Sequence, text: str, token_ids: tuple[int, ...]) -> None:
    if text:
        delta = Delta(text, token_ids)
        sequence.told.append(delta)
        sequence.generation.report(delta)
