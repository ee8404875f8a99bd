"""What a session asks its driver to do. A session does nothing itself: it returns effects."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.request import GenerationRequest
from voxtral_worker.sessions.events import CallMade, Event
from voxtral_worker.speech.pieces import SpeechFormat
from voxtral_worker.turns.events import SpeechPaused

# The name of one of the dialect's channels. None: the channel over which audio comes.
Channel: TypeAlias = str | None


@dataclass(frozen=True)
class Tell:
    """Send an event to the client on a channel."""

    event: Event
    to: Channel = None


@dataclass(frozen=True)
class Generate:
    """Ask the engine for a response; its events come back under `generation_id`."""

    generation_id: str
    request: GenerationRequest


@dataclass(frozen=True)
class Cancel:
    """Stop a generation; the session ignores its later events."""

    generation_id: str


@dataclass(frozen=True)
class Commit:
    """Raise a speculative generation to the urgency of a turn: its turn is over now."""

    generation_id: str


@dataclass(frozen=True)
class Settle:
    """Count how a speculation ended, and the tokens that were computed for nothing.

    `outcome`: `committed` (it became the answer), `discarded` (it was wrong), or `yielded` (the
    engine had not begun it in time).
    """

    outcome: str
    wasted_tokens: int = 0


@dataclass(frozen=True)
class Speak:
    """Turn words of an answer into speech, which comes back in pieces."""

    turn_id: str
    text: str
    format: SpeechFormat


@dataclass(frozen=True)
class EndSpeech:
    """End the speech of an answer: no more words follow."""

    turn_id: str


@dataclass(frozen=True)
class Hush:
    """Stop the speech of all answers so far."""


@dataclass(frozen=True)
class Score:
    """Ask how complete the words before a pause sound; `samples`, float32 [n], end with it."""

    pause: SpeechPaused
    samples: NDArray[np.float32] = field(repr=False, compare=False)


@dataclass(frozen=True)
class WakeUp:
    """Call the session's `wake` at this time; a later WakeUp replaces it."""

    at_s: float


@dataclass(frozen=True)
class CountCalls:
    """Count tool calls by how they ended: `answered`, `failed`, `timed_out` or `interrupted`."""

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


def calls_tools(effects: Iterable[Effect]) -> bool:
    """Whether the client gets complete calls of tools, which it may carry out at once."""
    told = (effect.event for effect in effects if isinstance(effect, Tell))
    return any(isinstance(event, CallMade) for event in told)
