"""Guesses that a pause is the end of a turn, within a budget for wrong guesses.

A guess is a request to the engine, made during a pause, that assumes the turn ends with this
pause. Its events are withheld until the turn is over; if speech continues, they are dropped.
"""

from collections import deque
from dataclasses import dataclass, field

from voxtral_worker.engine.request import Finished, GenerationEvent, GenerationRequest
from voxtral_worker.turns.events import SpeechPaused

# A wrong guess costs one unit of credit, an answered turn earns a quarter. So there is at most one
# wrong guess for four answers: a fifth of all generations, plus the first guess of a session.
CREDIT_PER_TURN = 0.25
MOST_CREDIT = 3.0
PAUSES_REMEMBERED = 16
# A new session counts as if so many turns had ended with their first pause. Without them it would
# have no pauses to judge by.
ENDS_EXPECTED = 3
# At most one guess in so many should be wrong.
PAUSES_PER_WRONG_GUESS = 5


@dataclass
class Speculation:
    """One guess: a generation that was asked for in a pause."""

    # The engine's name for it.
    generation_id: str
    # What the engine was asked. If the turn's real request differs, the guess was wrong.
    request: GenerationRequest
    # The pause that would be the end of the turn.
    pause: SpeechPaused
    # When the engine was asked.
    asked_s: float
    # Its events so far. They are at most as many as the request's `max_tokens` allows.
    withheld: list[GenerationEvent] = field(default_factory=list)
    # Size of the audio, and of the longest answer to it.
    sound_bytes: int = 0
    answer_bytes: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the generation is over."""
        return bool(self.withheld) and isinstance(self.withheld[-1], Finished)


class SpeculationPolicy:
    """Decides when a pause is worth a guess; counts frames, as the turn detector does."""

    def __init__(self) -> None:
        self.pause: SpeechPaused | None = None
        self._credit = 1.0
        # How long each of the last pauses lasted, in frames after the first at which the turn
        # could have ended. None: the turn did end with it.
        self.pauses: deque[int | None] = deque(maxlen=PAUSES_REMEMBERED)
        self._has_guessed = False
        # When to guess, if a score of the pause has set it. None: by the earlier pauses.
        self._due_frame: int | None = None

    def begin_pause(self, pause: SpeechPaused) -> None:
        """Speech has paused."""
        self.pause, self._has_guessed, self._due_frame = pause, False, None

    def guess_at(self, frame: int) -> None:
        """Guess once more, at a frame: a score has set when this pause would end the turn."""
        self._has_guessed, self._due_frame = False, frame

    def is_time_to_guess(self, frame: int) -> bool:
        """Whether to guess now, with the pause heard up to `frame`. Once for each pause."""
        if self.pause is None or self._has_guessed or self._credit < 1.0:
            return False
        if self._due_frame is not None:
            return frame >= self._due_frame
        return frame >= self.pause.end_frame + self._delay_frames()

    def guess(self) -> None:
        """Note that a guess was made in this pause."""
        self._has_guessed = True

    def end_pause(self, frame: int) -> None:
        """Note that speech continues at `frame`."""
        if self.pause is not None:
            self.pauses.append(frame - self.pause.end_frame)
        self.pause = None

    def end_turn(self) -> None:
        """Note that the turn is over."""
        # A turn may also end without a pause: by `end_turn`, or because it was too long.
        if self.pause is not None:
            self.pauses.append(None)
        self.pause = None
        self._credit = min(MOST_CREDIT, self._credit + CREDIT_PER_TURN)

    def reopen(self, frames: int) -> None:
        """Correct the last pause: it did not end the turn, but lasted `frames` frames."""
        self.pauses[-1] = frames

    def charge(self) -> None:
        """Pay for a wrong guess."""
        self._credit -= 1.0

    def _delay_frames(self) -> int:
        """Frames to wait before a guess, so that few enough guesses are wrong.

        After this wait, of the remembered pauses at most one lasted longer without being an end
        for each four that were one.
        """
        ends = ENDS_EXPECTED + sum(length is None for length in self.pauses)
        longest_first = sorted((n for n in self.pauses if n is not None), reverse=True)
        allowed = ends // (PAUSES_PER_WRONG_GUESS - 1)
        return longest_first[allowed] if len(longest_first) > allowed else 0
