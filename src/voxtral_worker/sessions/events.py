"""What happens in a conversation. Each dialect turns the events into messages of its own.

For a new event, add a class here, a place in `Event`, and a case in each dialect. The type
checker names the dialects in which the case is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.request import Usage
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import WorkerError
from voxtral_worker.sessions.config import SessionConfig

# What a dialect attaches to a turn it asked for, and gets back with the turn's events. The session
# does not read it.
Tag: TypeAlias = object


class Why(Enum):
    """Why a response was stopped before its end."""

    SPOKEN_OVER = auto()
    CANCELLED = auto()


# The user speaks.


@dataclass(frozen=True)
class SpeechStarted:
    """A spoken turn has begun, `start_ms` after the session's audio began."""

    turn_id: str
    start_ms: int


@dataclass(frozen=True)
class SpeechEnded:
    """A spoken turn is over.

    `reason` is `silence`, `semantic`, `end_turn`, `stalled`, or `too_long`: then the speech
    continues as the next turn. `completeness`, from 0 to 1, is how complete its words sounded;
    None if they were not scored.
    """

    turn_id: str
    start_ms: int
    end_ms: int
    audio: Audio = field(repr=False, compare=False)
    reason: str = "silence"
    completeness: float | None = None


@dataclass(frozen=True)
class TurnReopened:
    """The spoken turn that ended last continues, and its answer counts as not given.

    SpeechEnded comes again later, with all audio since the turn first began.
    """

    turn_id: str
    start_ms: int


@dataclass(frozen=True)
class NoSpeech:
    """No turn was open that could be ended, or there was too little speech for one."""

    turn_id: str | None = None


@dataclass(frozen=True)
class Partial:
    """A transcript of the speech so far; its first `stable_chars` characters will not change."""

    turn_id: str
    text: str
    stable_chars: int


@dataclass(frozen=True)
class Transcript:
    """The words of a spoken turn; with an `error` there are none, because transcribing failed."""

    turn_id: str
    text: str
    error: WorkerError | None = None


# A turn is answered. Each accepted turn ends with Answered or Failed; a reopened turn is accepted
# and answered again.


@dataclass(frozen=True)
class Accepted:
    """A turn will be answered."""

    turn_id: str
    tag: Tag = None


@dataclass(frozen=True)
class Delta:
    """A piece of a response."""

    turn_id: str
    text: str
    tag: Tag = None


@dataclass(frozen=True)
class CallBegun:
    """The model has begun to call a tool; `index` counts the calls of a response, from 0."""

    turn_id: str
    index: int
    call_id: str
    name: str


@dataclass(frozen=True)
class CallDelta:
    """More of the JSON text of a call's arguments."""

    turn_id: str
    index: int
    text: str


@dataclass(frozen=True)
class CallMade:
    """A complete call for the client to run. All calls of a response come before its Answered."""

    turn_id: str
    index: int
    call: ToolCall
    tag: Tag = None


@dataclass(frozen=True)
class HistoryTrimmed:
    """The oldest exchanges were forgotten, because they do not fit the model's context."""

    turn_id: str
    exchanges: int


@dataclass(frozen=True)
class Stopped:
    """A response was stopped. `turn_id` None: no response was being made.

    Answered comes next, unless it has come before: then only the response's speech stops.
    """

    turn_id: str | None
    why: Why


@dataclass(frozen=True)
class Answered:
    """The whole response; `metrics` has the stages of its turn in ms.

    After `finish_reason` `tool_calls` the turn continues once its calls have their results.
    """

    turn_id: str
    text: str
    source: str
    finish_reason: str
    usage: Usage = Usage()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tag: Tag = None
    # Whether pieces of its speech are still to come.
    is_being_spoken: bool = False


@dataclass(frozen=True)
class Spoken:
    """A piece of the speech of an answer, encoded as the config says.

    It begins `offset_ms` after the answer's speech began. `text` is the sentence that begins with
    this piece; empty within a sentence.
    """

    turn_id: str
    text: str
    data: bytes = field(repr=False)
    offset_ms: float
    duration_ms: float
    is_final: bool = False


@dataclass(frozen=True)
class Failed:
    """A turn gets no response, because of an error."""

    turn_id: str
    error: WorkerError
    tag: Tag = None


# The session itself.


@dataclass(frozen=True)
class HistoryCleared:
    """The conversation was forgotten."""


@dataclass(frozen=True)
class ConfigChanged:
    """The options have changed to these."""

    config: SessionConfig


@dataclass(frozen=True)
class Refused:
    """A client's message was refused; `error.about` names the message."""

    error: WorkerError


@dataclass(frozen=True)
class Draining:
    """The worker is shutting down."""


@dataclass(frozen=True)
class Expired:
    """The session ends, because its client did nothing for too long."""


Event: TypeAlias = (
    SpeechStarted
    | SpeechEnded
    | TurnReopened
    | NoSpeech
    | Partial
    | Transcript
    | Accepted
    | Delta
    | CallBegun
    | CallDelta
    | CallMade
    | HistoryTrimmed
    | Stopped
    | Answered
    | Spoken
    | Failed
    | HistoryCleared
    | ConfigChanged
    | Refused
    | Draining
    | Expired
)
