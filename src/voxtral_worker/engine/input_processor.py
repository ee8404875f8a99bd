"""Makes sequences of requests: their prompts, their grammars, and how long they may become."""

import itertools
import time
from functools import partial

from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

from voxtral_worker.engine.constraint import Constraint
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.grammar import COMPILE_S, Grammar, Grammars, Shape, took_too_long
from voxtral_worker.engine.inbox import Asked, Inbox
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import (
    Finished,
    GenerationRequest,
    HistoryTrimmed,
    Timings,
    Usage,
)
from voxtral_worker.engine.response import Response
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.tools import NO_TOOLS


class InputProcessor:
    """Hands requests from the inbox to the core; engine's thread only.

    A request whose grammar is not compiled yet goes back to the inbox until it is.
    """

    def __init__(self, core: EngineCore, inbox: Inbox, grammars: Grammars) -> None:
        self._core = core
        self._inbox = inbox
        self._grammars = grammars
        self._tokenizer = core.loaded.tokenizer
        self._prompts = PromptEncoder(core.loaded.tokenizer, core.window_tail)
        self._ids = itertools.count(1)

    def process(self, asked: Asked) -> None:
        """Make a sequence of a request, or fail the request."""
        self._core.faults.request(asked.generation, partial(self._process, asked))

    def _process(self, asked: Asked) -> None:
        """As `process`. Raises BadInput where the request cannot be answered."""
        generation = asked.generation
        if asked.has_asked and generation.is_cancelled:
            # The caller left while the grammar was being compiled.
            generation.report(Finished("interrupted", Usage(), Timings()))
            return
        shape, grammar = _shape_of(generation.request), None
        if not shape.is_free:
            grammar = self._grammar_of(asked, shape)
            if grammar is None:
                return
        sequence = self._sequence_of(asked)
        if sequence.prompt.trimmed:
            generation.report(HistoryTrimmed(sequence.prompt.trimmed))
        detokenizer = Detokenizer(self._tokenizer, SpecialTokenPolicy.IGNORE)
        self._core.add(sequence, Response(generation, detokenizer, Constraint(shape, grammar)))

    def _sequence_of(self, asked: Asked) -> Sequence:
        """The sequence of a request, which fits into the context and into the KV cache.

        A quarter of both, at most, is left for the answer; history that does not fit with it
        is not part of the prompt. Raises TooLarge when the last turn alone is too long.
        """
        request = asked.generation.request
        most_new = request.sampling.max_tokens
        positions = self._core.context_tokens
        rows = self._core.scheduler.most_tokens(request.urgency)
        reserve = min(most_new, min(positions, rows) // 4)
        prompt = self._prompts.encode(request.conversation, positions - reserve, rows - reserve)
        taken = len(prompt.ids) + prompt.skipped
        return Sequence(
            next(self._ids),
            prompt,
            min(most_new, positions - taken, rows - len(prompt.ids)),
            urgency=asked.generation.urgency,
            owner=request.owner,
            submitted_s=asked.submitted_s,
        )

    def _grammar_of(self, asked: Asked, shape: Shape) -> Grammar | None:
        """The grammar of a request; None while it is being compiled, which the request waits for.

        Raises BadInput where it cannot be compiled, or not in time.
        """
        grammar = self._grammars.find(shape)
        if grammar is not None:
            return grammar
        if time.monotonic() - asked.submitted_s > COMPILE_S:
            raise took_too_long(shape)
        self._inbox.hold(asked)
        if not asked.has_asked:
            asked.has_asked = True
            self._grammars.ask(shape, self._inbox.wake)
        return None


def _shape_of(request: GenerationRequest) -> Shape:
    if request.conversation.transcribe:
        return Shape(NO_TOOLS)
    return Shape(request.conversation.tools, request.sampling.schema)
