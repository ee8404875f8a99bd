"""What happens in a conversation; each dialect tells its clients in its own words.

A new event is a class here, a place in `Event`, and a case in each dialect: the type checker
names the dialects that do not know it yet.
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

# What a dialect wants to know again of a turn that it asked for. The session does not read it.
Tag: TypeAlias = object


class Why(Enum):
    """Why a response was stopped before its end."""

    SPOKEN_OVER = auto()
    CANCELLED = auto()


# The user speaks.


@dataclass(frozen=True)
class SpeechStarted:
    """A turn has begun, so many ms after the session's audio began."""

    turn_id: str
    start_ms: int


@dataclass(frozen=True)
class SpeechEnded:
    """A spoken turn is over.

    `reason` is `silence`, `semantic`, `end_turn`, `stalled`, or `too_long` where it goes on as the
    next one. `completeness`, from 0 to 1, is how complete its words sounded, if that was asked.
    """

    turn_id: str
    start_ms: int
    end_ms: int
    audio: Audio = field(repr=False, compare=False)
    reason: str = "silence"
    completeness: float | None = None


@dataclass(frozen=True)
class TurnReopened:
    """The spoken turn that ended last goes on, and what was answered counts as not said.

    SpeechEnded comes once more, with the audio from the turn's first beginning.
    """

    turn_id: str
    start_ms: int


@dataclass(frozen=True)
class NoSpeech:
    """There was no turn to end, or too little speech for one."""

    turn_id: str | None = None


@dataclass(frozen=True)
class Partial:
    """What the user seems to be saying; the first `stable_chars` characters stay."""

    turn_id: str
    text: str
    stable_chars: int


@dataclass(frozen=True)
class Transcript:
    """The words of a spoken turn; with an `error` they could not be found out."""

    turn_id: str
    text: str
    error: WorkerError | None = None


# A turn is answered. The last event of each that was accepted is Answered or Failed, until it is
# reopened.


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
    """A call that is to be run. All of a response come before its Answered."""

    turn_id: str
    index: int
    call: ToolCall
    tag: Tag = None


@dataclass(frozen=True)
class HistoryTrimmed:
    """The oldest exchanges do not fit the model's context and were forgotten."""

    turn_id: str
    exchanges: int


@dataclass(frozen=True)
class Stopped:
    """A response ends early; without a turn there was none to stop.

    Answered comes next, unless the response is whole already and its speech alone is stopped.
    """

    turn_id: str | None
    why: Why


@dataclass(frozen=True)
class Answered:
    """The whole response; `metrics` has the stages of its turn in ms.

    With `finish_reason` `tool_calls` the turn goes on when its calls have their results.
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
    """A piece of a turn's speech; `text` is the sentence that begins with it, or empty.

    It begins `offset_ms` after the turn's speech began.
    """

    turn_id: str
    text: str
    data: bytes = field(repr=False)
    offset_ms: float
    duration_ms: float
    is_final: bool = False


@dataclass(frozen=True)
class Failed:
    """A turn has no response."""

    turn_id: str
    error: WorkerError
    tag: Tag = None


# The session itself.


@dataclass(frozen=True)
class HistoryCleared:
    """The conversation was forgotten."""


@dataclass(frozen=True)
class ConfigChanged:
    """Other options are in force."""

    config: SessionConfig


@dataclass(frozen=True)
class Refused:
    """Something that a client sent was not taken; `error.about` says which of its messages."""

    error: WorkerError


@dataclass(frozen=True)
class Draining:
    """The worker is going away."""


@dataclass(frozen=True)
class Expired:
    """The session was quiet for too long and ends."""


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
