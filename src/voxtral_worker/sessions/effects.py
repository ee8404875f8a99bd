"""What a session asks the world to do; it does nothing itself."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.request import GenerationRequest
from voxtral_worker.sessions.events import Event
from voxtral_worker.speech.pieces import SpeechFormat
from voxtral_worker.turns.detector import SpeechPaused

# A name that the dialect gives to one of its channels; None: the channel of those who speak.
Channel: TypeAlias = str | None


@dataclass(frozen=True)
class Tell:
    """Tell the client on a channel what has happened."""

    event: Event
    to: Channel = None


@dataclass(frozen=True)
class Generate:
    """Ask the engine; its events come back under `generation_id`."""

    generation_id: str
    request: GenerationRequest


@dataclass(frozen=True)
class Cancel:
    """The engine may stop; its later events are ignored."""

    generation_id: str


@dataclass(frozen=True)
class Commit:
    """A generation that was asked for ahead of time is now what a user waits for."""

    generation_id: str


@dataclass(frozen=True)
class Settle:
    """Count a speculation: `committed`, `discarded` or `yielded`, and the tokens it wasted."""

    outcome: str
    wasted_tokens: int = 0


@dataclass(frozen=True)
class Speak:
    """Say words of a turn; its speech comes back in pieces."""

    turn_id: str
    text: str
    format: SpeechFormat


@dataclass(frozen=True)
class EndSpeech:
    """All words of a turn are said."""

    turn_id: str


@dataclass(frozen=True)
class Hush:
    """Nothing more is said of any turn so far."""


@dataclass(frozen=True)
class Score:
    """Ask how complete the words before a pause sound; `samples`, float32 [n], end with it."""

    pause: SpeechPaused
    samples: NDArray[np.float32] = field(repr=False, compare=False)


@dataclass(frozen=True)
class WakeUp:
    """Call the session's `wake` at this time; of several times the last one counts."""

    at_s: float


@dataclass(frozen=True)
class CountCalls:
    """Count calls of tools: `answered`, `failed`, `timed_out` or `interrupted`."""

    outcome: str
    calls: int = 1


Effect: TypeAlias = (
    Tell
    | Generate
    | Cancel
    | Commit
    | Settle
    | Score
    | Speak
    | EndSpeech
    | Hush
    | WakeUp
    | CountCalls
)
