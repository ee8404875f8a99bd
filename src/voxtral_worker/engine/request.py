"""Requests to the engine, and the events that it reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.errors import WorkerError


class Urgency(IntEnum):
    """Which request goes first when not all can: the one with the lower number."""

    TURN = 0
    SPECULATION = 1
    JOB = 2
    TRANSCRIPT = 3
    PARTIAL = 4


@dataclass(frozen=True)
class AnswerSchema:
    """An answer is JSON that satisfies the schema whose JSON text this is.

    Words of the schema that cannot be enforced are errors where it is `strict`; otherwise they are
    ignored.
    """

    text: str
    strict: bool = False


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and how many there may be.

    `temperature` 0 is greedy. `max_tokens` limits the new tokens. The text ends where one of `stop`
    would begin. With `seed` the same request gets the same answer, whatever runs at the same time.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: AnswerSchema | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """A request for one response.

    `owner` names the session whose earlier turns the conversation continues; requests of
    one owner may share work with each other only. None: the request shares no work.
    """

    conversation: Conversation
    sampling: Sampling = field(default_factory=Sampling)
    urgency: Urgency = Urgency.TURN
    owner: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of one generation, counted in rows of the model.

    `audio_tokens` of the prompt are audio, and `cached_tokens` of it were not computed again.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    audio_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Stages of one generation in seconds, on the engine's monotonic clock."""

    queue_s: float = 0.0
    encode_s: float = 0.0
    prefill_s: float = 0.0


@dataclass(frozen=True)
class HistoryTrimmed:
    """The oldest exchanges did not fit the context and are not part of the prompt."""

    exchanges: int


@dataclass(frozen=True)
class Delta:
    """New text, with the tokens that it is made of."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class CallStarted:
    """The model calls a tool; `index` counts the calls of a response, from 0."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True)
class CallFinished:
    """A call is whole, and `arguments` is JSON of an object."""

    index: int
    arguments: str


CallEvent: TypeAlias = CallStarted | ArgumentsDelta | CallFinished


@dataclass(frozen=True)
class Finished:
    """The response is whole.

    `finish_reason` is `stop`, `length`, `tool_calls` or `interrupted`.
    """

    finish_reason: str
    usage: Usage
    timings: Timings


@dataclass(frozen=True)
class Failed:
    """This generation has failed; others continue."""

    error: WorkerError


GenerationEvent: TypeAlias = HistoryTrimmed | Delta | CallEvent | Finished | Failed
Listener: TypeAlias = Callable[[GenerationEvent], None]
