"""What the turn detector reports. Frames count from the first that was ever heard."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class SpeechStarted:
    """A turn is open; its audio begins with `first_frame`.

    With `goes_on` it is the rest of a turn that was too long, and no answer to anything.
    """

    first_frame: int
    goes_on: bool = False


@dataclass(frozen=True)
class TurnReopened:
    """The turn that ended last is open again; its audio begins with `first_frame`."""

    first_frame: int


@dataclass(frozen=True)
class SpeechPaused:
    """Speech has paused. If the turn ends here, its audio is [`first_frame`, `end_frame`).

    With `is_scored` the detector waits for a score of this pause.
    """

    first_frame: int
    end_frame: int
    is_scored: bool = False


@dataclass(frozen=True)
class SpeechResumed:
    """Speech continues in the same turn: the pause did not end it."""


@dataclass(frozen=True)
class TurnEnded:
    """The turn is over; its audio is [`first_frame`, `end_frame`).

    `reason` is `silence`, `semantic`, `end_turn`, `stalled` or `too_long`. `completeness`, from
    0 to 1, is the score of the pause that ended it.
    """

    first_frame: int
    end_frame: int
    last_speech_frame: int
    speech_frames: int
    reason: str
    completeness: float | None = None


TurnEvent: TypeAlias = SpeechStarted | TurnReopened | SpeechPaused | SpeechResumed | TurnEnded
