"""Decides what a failure means: what is tried again, which requests fail, and how.

What fails               | What is done                         | Which requests fail
------------------------ | ------------------------------------ | ------------------------------
a step, a batch of       | repeated one by one: one of them may | those that fail alone; of a
windows, a choice of     | be at fault, or all together too     | piece of audio all that wait
tokens                   | large                                | for it
memory is short          | memory that the allocator keeps is   | those that fail alone again,
                         | given back; one alone is tried once  | with `OutOfMemory`
                         | more                                 |
logits that are not      | nothing: the same numbers would come | the one of that row
finite                   | again                                |
a request's preparation  | nothing                              | that request
the delivery of a token  | nothing: it may be sent in part      | that request
upkeep, for no request   | an error is logged                   | none
anything else            | an error is logged                   | all

After each failure of the worker, not of the request, the device has to compute 1. A device that
no longer does is lost, and the engine with it.

This does not apply to a kernel, a recording or a compilation that fails: the slower way gives
the same result. See `DecodeSteps` and `Encoder`.
"""

import logging
import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from voxtral_worker import metrics
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import Failed
from voxtral_worker.engine.response import Response
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.errors import EngineFailure, OutOfMemory, ToolCallInvalid, WorkerError

log = logging.getLogger(__name__)

T = TypeVar("T")
Failures = list[tuple[T, Exception]]


class Faults:
    """Fails the requests that a failure is for, each of them once; engine's thread only."""

    def __init__(
        self,
        responses: dict[int, Response],
        release: Callable[[Sequence], None],
        answers: Callable[[], bool],
    ) -> None:
        """`responses`: those of all sequences that have not ended, by `sequence_id`.

        `release` takes a sequence out of the engine, and its response with it. `answers`:
        whether the device still computes.
        """
        self._responses = responses
        self._release = release
        self._answers = answers
        self.is_device_lost = False

    def together(
        self,
        items: list[T],
        work: Callable[[list[T]], object],
        whose: Callable[[T], Iterable[Sequence]],
    ) -> None:
        """Do work on all items, as `attempt`; fail `whose` sequences an item is that fails."""
        self.fail(attempt(items, work), whose)

    def fail(self, failures: Failures[T], whose: Callable[[T], Iterable[Sequence]]) -> None:
        """Fail `whose` sequences each item of these failures is."""
        for item, error in failures:
            for sequence in whose(item):
                self._fail_one(sequence, error)

    def alone(self, sequence: Sequence, work: Callable[[], object]) -> None:
        """Do work for one sequence that must not be repeated."""
        error = _error_of(work)
        if error is not None:
            self._fail_one(sequence, error)

    def request(self, generation: Generation, work: Callable[[], object]) -> None:
        """Prepare a request that has no sequence yet."""
        error = _error_of(work)
        if error is not None:
            told = generation.context.run(_for_caller, error)
            metrics.engine_failures.inc()
            generation.report(Failed(told))
            self._look_at_device(told)

    def upkeep(self, work: Callable[[], object]) -> None:
        """Do work that is for no request, and whose failure harms none."""
        error = _error_of(work)
        if error is not None:
            self._look_at_device(_for_caller(error))

    def end(self, sequence: Sequence, error: WorkerError) -> None:
        """End a sequence with an error; one that has ended is left alone."""
        response = self._responses.get(sequence.sequence_id)
        if response is None:
            return
        # What it has computed may be the fault, so no next turn may start with it.
        sequence.owner = None
        self._release(sequence)
        metrics.engine_failures.inc()
        if isinstance(error, ToolCallInvalid):
            metrics.tool_calls.labels("invalid").inc()
        response.generation.report(Failed(error))

    def _fail_one(self, sequence: Sequence, error: Exception) -> None:
        response = self._responses.get(sequence.sequence_id)
        if response is None:
            return
        # In the context of its caller, so that the lines of the log carry the caller's ids.
        told = response.generation.context.run(_for_caller, error)
        self.end(sequence, told)
        self._look_at_device(told)

    def _look_at_device(self, told: WorkerError) -> None:
        if isinstance(told, EngineFailure) and not self._answers():
            log.critical("engine: the device no longer answers")
            self.is_device_lost = True


def attempt(items: list[T], work: Callable[[list[T]], object]) -> Failures[T]:
    """Do `work` on all items together; where that fails, on each alone.

    Returns the items that failed alone, with the reason. Where memory was short, one alone is
    tried once more. `work` is repeated, so it must change nothing until it has succeeded.
    """
    if not items:
        return []
    error = _error_of(lambda: work(items))
    if error is None:
        return []
    is_short = isinstance(error, torch.OutOfMemoryError)
    if is_short:
        _give_memory_back()
    if len(items) > 1:
        return [failure for item in items for failure in attempt([item], work)]
    if is_short:
        error = _error_of(lambda: work(items))
    return [] if error is None else [(items[0], error)]


def _error_of(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the engine step: one of the named places
        _let_go(error)
        return error
    return None


def _let_go(error: BaseException) -> None:
    """Drop the variables of failed work, which hold its tensors; the log needs only its lines."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def _give_memory_back() -> None:
    # Does nothing where no GPU is used.
    torch.cuda.empty_cache()


def _for_caller(error: Exception) -> WorkerError:
    """The error that a caller gets; logs what the caller does not get."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        log.error("engine: out of memory: %s", error)
        return OutOfMemory("the GPU has no memory left for this request")
    log.error("engine: a generation failed", exc_info=error)
    return EngineFailure("the model failed on this request")
