"""Guesses that a pause is the end of a turn, within a budget for wrong guesses.

A guess is asked of the engine as soon as the turn could end where it would end. What the
engine says is withheld until the turn is over; if speech goes on, it is forgotten.
"""

from collections import deque
from dataclasses import dataclass, field

from voxtral_worker.engine.request import Finished, GenerationEvent, GenerationRequest
from voxtral_worker.turns.detector import SpeechPaused

# A wrong guess costs one unit of credit, an answered turn earns a quarter: of all work at
# most a fifth is thrown away, besides the first guess of a session.
CREDIT_PER_TURN = 0.25
MOST_CREDIT = 3.0
PAUSES_REMEMBERED = 16
# Pauses at the end of a turn that a new session is credited with.
ENDS_EXPECTED = 3
# Of the pauses guessed at, at most one in so many should turn out to be none.
PAUSES_PER_WRONG_GUESS = 5


@dataclass
class Speculation:
    """One guess. `withheld` is bounded by `max_tokens` of the request."""

    generation_id: str
    request: GenerationRequest
    pause: SpeechPaused
    asked_s: float
    withheld: list[GenerationEvent] = field(default_factory=list)
    # What the sound takes, and what its answer may take.
    sound_bytes: int = 0
    answer_bytes: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the engine has said all."""
        return bool(self.withheld) and isinstance(self.withheld[-1], Finished)


class SpeculationPolicy:
    """Decides when a pause is worth a guess; counts frames, as the turn detector does."""

    def __init__(self) -> None:
        self.pause: SpeechPaused | None = None
        self._credit = 1.0
        # How many frames each pause went on after it could have been a turn's end; None: it was.
        self._pauses: deque[int | None] = deque(maxlen=PAUSES_REMEMBERED)
        self._has_guessed = False
        # When to guess, where that does not follow from the pauses before this one.
        self._due_frame: int | None = None

    def begin_pause(self, pause: SpeechPaused) -> None:
        """Speech has paused."""
        self.pause, self._has_guessed, self._due_frame = pause, False, None

    def guess_at(self, frame: int) -> None:
        """It is known when this pause would end the turn: guess at a frame, perhaps once more."""
        self._has_guessed, self._due_frame = False, frame

    def is_time_to_guess(self, frame: int) -> bool:
        """Whether the pause, heard up to `frame`, should be guessed at; once a pause."""
        if self.pause is None or self._has_guessed or self._credit < 1.0:
            return False
        if self._due_frame is not None:
            return frame >= self._due_frame
        return frame >= self.pause.end_frame + self._delay_frames()

    def guess(self) -> None:
        """The pause is being guessed at."""
        self._has_guessed = True

    def end_pause(self, frame: int) -> None:
        """Speech goes on."""
        if self.pause is not None:
            self._pauses.append(frame - self.pause.end_frame)
        self.pause = None

    def end_turn(self) -> None:
        """The turn is over."""
        if self.pause is not None:
            self._pauses.append(None)
        self.pause = None
        self._credit = min(MOST_CREDIT, self._credit + CREDIT_PER_TURN)

    def reopen(self, frames: int) -> None:
        """The last turn goes on: its end was a pause that went on for so many frames."""
        self._pauses[-1] = frames

    def charge(self) -> None:
        """A guess was wrong."""
        self._credit -= 1.0

    def _delay_frames(self) -> int:
        """The shortest wait after which few enough of the remembered pauses went on."""
        ends = ENDS_EXPECTED + sum(length is None for length in self._pauses)
        longest_first = sorted((n for n in self._pauses if n is not None), reverse=True)
        allowed = ends // (PAUSES_PER_WRONG_GUESS - 1)
        return longest_first[allowed] if len(longest_first) > allowed else 0
