"""Asks the engine for one answer to one conversation, for callers that have no session."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.engine.generation import Generation, GenerationStream
from voxtral_worker.engine.request import (
    ArgumentsDelta,
    CallEvent,
    CallFinished,
    CallStarted,
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Listener,
    Sampling,
    Urgency,
    Usage,
)
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import BadInput, BadSchema, EngineFailure, TooLarge


class Engine(Protocol):
    """The part of the engine that is used here."""

    def submit(self, request: GenerationRequest, listener: Listener) -> Generation:
        """Ask for a response; raises AtCapacity or NotReady."""


@dataclass(frozen=True)
class Answer:
    """One finished response."""

    text: str
    finish_reason: str
    usage: Usage
    token_ids: tuple[int, ...] = ()
    calls: tuple[ToolCall, ...] = ()


async def answer(
    engine: Engine,
    conversation: Conversation,
    sampling: Sampling,
    field: str,
    say: Callable[[str], None],
    call: Callable[[CallEvent], None] = lambda _: None,
) -> Answer:
    """Have the engine answer; `say` gets each piece of text as it is made, `call` the calls.

    However this ends, the engine stops working on it. Raises BadInput that names `field` when
    the conversation is longer than the context, and every error that the engine reports.
    """
    stream = GenerationStream()
    request = GenerationRequest(conversation, sampling, Urgency.JOB)
    generation = engine.submit(request, _whole(stream.listener))
    said: list[str] = []
    token_ids: list[int] = []
    started: dict[int, CallStarted] = {}
    calls: list[ToolCall] = []
    finished: Finished | None = None
    try:
        async for event in stream:
            match event:
                case Delta(text=text):
                    said.append(text)
                    token_ids += event.token_ids
                    say(text)
                case CallStarted(index):
                    started[index] = event
                    call(event)
                case ArgumentsDelta():
                    call(event)
                case CallFinished(index, arguments):
                    of_call = started[index]
                    calls.append(ToolCall(of_call.call_id, of_call.name, arguments))
                    call(event)
                case Finished():
                    finished = event
    except BadSchema:
        # This error is about the schema of the answer, not about `field`.
        raise
    except BadInput as error:
        raise error.of_field(field) from None
    finally:
        generation.cancel()
    if finished is None or finished.finish_reason == "interrupted":
        raise EngineFailure("the engine stopped before the answer was whole")
    whole = tuple(calls) if finished.finish_reason == "tool_calls" else ()
    return Answer("".join(said), finished.finish_reason, finished.usage, tuple(token_ids), whole)


def _whole(listener: Listener) -> Listener:
    """A listener that gets `Failed` where the oldest exchanges were left out of the prompt."""

    def hear(event: GenerationEvent) -> None:
        if isinstance(event, HistoryTrimmed):
            event = Failed(TooLarge("the conversation is longer than the context"))
        listener(event)

    return hear
