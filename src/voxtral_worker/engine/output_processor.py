"""Turns logits into what callers get: chooses tokens, makes text of them, ends in time."""

import dataclasses
import time

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.constraint import Masks
from voxtral_worker.engine.faults import Failures, attempt
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.repetition import is_runaway
from voxtral_worker.engine.request import CallStarted, Finished, Usage
from voxtral_worker.engine.response import Response
from voxtral_worker.engine.response_cache import CachedResponse, ResponseCache
from voxtral_worker.engine.sampler import sample_rows, step_seed
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.tools import new_call_id
from voxtral_worker.errors import ToolCallInvalid

# Choosing a token takes about 3.4 MB for a row of 131,072 logits.
ROWS_AT_ONCE = 32
NO_TOKEN = -1


class OutputProcessor:
    """Holds the responses of all sequences that have not ended; engine's thread only.

    It says when a response is over and why; the engine ends it.
    """

    def __init__(self, loaded: LoadedModel, responses_kept: int, window_tail: str = EXACT) -> None:
        """`responses_kept`: whole answers that are kept for equal input."""
        # By `sequence_id`.
        self.responses: dict[int, Response] = {}
        self.cache = ResponseCache(responses_kept, window_tail)
        self.masks = Masks.of(loaded.tokenizer, loaded.device)
        # Tokens that end a response, and what says of tokens whether they repeat without end.
        self.stop_ids = loaded.stop_ids
        self.is_runaway = is_runaway

    def replay(self, sequence: Sequence, response: Response) -> bool:
        """Report the answer that equal input got before. False: there is no such answer."""
        prompt, request = sequence.prompt, response.generation.request
        response.key = self.cache.key(prompt, request.sampling, request.conversation.tools)
        cached = self.cache.get(response.key)
        if cached is None:
            return False
        metrics.response_cache_hits.inc()
        for told in cached.told:
            if isinstance(told, CallStarted):
                # Ids are unique, also when the same was asked before.
                told = dataclasses.replace(told, call_id=new_call_id())
            response.generation.report(told)
        # No token counts as cached: a caller must not learn that another one sent the same.
        usage = Usage(len(prompt.ids), cached.completion_tokens, 0, prompt.audio_rows)
        now_s = time.monotonic()
        sequence.admitted_s = sequence.encoded_s = sequence.first_token_s = now_s
        response.generation.report(Finished(cached.finish_reason, usage, sequence.timings()))
        return True

    def choose(
        self, sequences: list[Sequence], logits: torch.Tensor
    ) -> tuple[list[tuple[Sequence, int]], Failures[Sequence]]:
        """Choose each sequence's next token from logits, float [n, vocabulary].

        Returns the tokens, and the sequences that have none with the reason. A row that is not
        finite concerns its own sequence only.
        """
        chosen: list[tuple[Sequence, int]] = []
        constraints = [self.responses[each.sequence_id].constraint for each in sequences]
        lost = self.masks.apply(logits, constraints)
        failures: Failures[Sequence] = [(sequences[row], error) for row, error in lost.items()]

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
        is_lost = {sequence.sequence_id for sequence, _ in failures}
        return [pair for pair in chosen if pair[0].sequence_id not in is_lost], failures

    def take(self, sequence: Sequence, token_id: int) -> str | None:
        """Report a token's text; returns the finish reason of a response that is over.

        Raises ToolCallInvalid where a call of a tool is not one.
        """
        if sequence.first_token_s is None:
            sequence.first_token_s = time.monotonic()
        response = self.responses[sequence.sequence_id]
        constraint = response.constraint
        if token_id in self.stop_ids:
            return _reason(response)
        sequence.token_ids.append(token_id)
        metrics.tokens_generated.inc()
        is_call = token_id == self.masks.call_token
        if is_call and constraint.parser is None:
            # The text before the call is over, also the part that was held back.
            response.finish_text()
        constraint.take(token_id, is_call=is_call)
        response.push(token_id)
        if constraint.is_over:
            return _reason(response)
        if response.has_stopped:
            return "stop"
        if self.is_runaway(sequence.token_ids):
            metrics.runaways.inc()
            return "length"
        return "length" if len(sequence.token_ids) >= sequence.max_tokens else None

    def complete(self, sequence: Sequence, finish_reason: str) -> None:
        """Report the rest of the text, and keep the answer for equal input."""
        response = self.responses[sequence.sequence_id]
        if response.constraint.parser is None:
            response.finish_text()
        told, tokens = tuple(response.told), len(sequence.token_ids)
        self.cache.put(response.key, CachedResponse(told, finish_reason, tokens))
        metrics.response_cache_answers.set(self.cache.answers)

    def _sample(self, sequences: list[Sequence], logits: torch.Tensor) -> list[int]:
        """A token for each sequence, NO_TOKEN where its row is not finite."""
        samplings = [self.responses[each.sequence_id].sampling for each in sequences]
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


def _reason(response: Response) -> str:
    """Why a response is over that the model has ended. Raises ToolCallInvalid in mid-call."""
    parser = response.constraint.parser
    if parser is None:
        return "stop"
    if not parser.is_whole:
        raise ToolCallInvalid("the model ended in the middle of a call of a tool")
    metrics.tool_calls.labels("made").inc(parser.calls)
    return "tool_calls"
