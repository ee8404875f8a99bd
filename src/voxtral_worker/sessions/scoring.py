"""Asks for a score of each pause: how complete the words before it sound."""

from voxtral_worker.sessions.effects import Effect, Score
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.speculator import Speculator
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.events import SpeechPaused

# The network's input: 8 s.
MOST_FRAMES = 250


class Scoring:
    """Asks for one score for each pause that needs one.

    `Listening` hears no frame for which a score is due. So turns do not depend on how fast the
    scores come.
    """

    def __init__(self, detector: TurnDetector, heard: HeardFrames, speculator: Speculator) -> None:
        self._detector = detector
        self._heard = heard
        self._speculator = speculator

    @property
    def is_due(self) -> bool:
        """Whether the next frame must wait until the score has come."""
        return self._detector.needs_score

    def ask(self, pause: SpeechPaused) -> list[Effect]:
        """Ask for the score of a pause that has begun, if it needs one."""
        if not pause.is_scored:
            return []
        first = max(pause.first_frame, pause.end_frame - MOST_FRAMES)
        return [Score(pause, self._heard.samples(first, pause.end_frame))]

    def tell(self, pause: SpeechPaused, score: float | None, now_s: float) -> list[Effect]:
        """Take the score of a pause, from 0 to 1; None: it could not be scored.

        A pause is scored once; a second score is ignored.
        """
        end_frame = self._detector.score(pause, score)
        if end_frame is None or score is None:
            return []
        effects = self._speculator.weigh(score, end_frame)
        heard = self._detector.frames_heard
        return [*effects, *self._speculator.look_at_pause(heard, now_s)]
