"""What the engine is asked for, and what it says back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from voxtral_worker.engine.conversation import Conversation
from voxtral_worker.errors import WorkerError


class Urgency(IntEnum):
    """Who goes first when not all can: the lower number."""

    TURN = 0
    SPECULATION = 1
    JOB = 2
    PARTIAL = 3


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and how many there may be.

    `temperature` 0 is greedy. `max_tokens` counts new tokens.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    max_tokens: int = 256


@dataclass(frozen=True)
class GenerationRequest:
    """One response to be made.

    `owner` names the session whose earlier turns the conversation continues; requests of
    one owner may share work with each other and with nobody else. None: shares with nobody.
    """

    conversation: Conversation
    sampling: Sampling = field(default_factory=Sampling)
    urgency: Urgency = Urgency.TURN
    owner: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of one generation. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


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
    """New text, with the tokens it is made of. The first one carries the prompt's timings."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Finished:
    """The response is whole. `finish_reason` is `stop`, `length` or `interrupted`."""

    finish_reason: str
    usage: Usage
    timings: Timings


@dataclass(frozen=True)
class Failed:
    """This generation failed; others go on."""

    error: WorkerError


GenerationEvent: TypeAlias = HistoryTrimmed | Delta | Finished | Failed
Listener: TypeAlias = Callable[[GenerationEvent], None]
