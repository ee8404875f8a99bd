"""Has pauses scored for how complete the words before them sound."""

from voxtral_worker.sessions.effects import Effect, Score
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.speculator import Speculator
from voxtral_worker.turns.detector import SpeechPaused, TurnDetector

# The network hears so much: 8 s.
MOST_FRAMES = 250


class Scoring:
    """One score is asked for each pause that is worth one.

    What the turn detector makes of it does not depend on when it comes, since no frame is heard
    for which it is due.
    """

    def __init__(self, detector: TurnDetector, heard: HeardFrames, speculator: Speculator) -> None:
        self._detector = detector
        self._heard = heard
        self._speculator = speculator
        self._turn_id: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether no more frames are heard before the score is told."""
        return self._detector.needs_score

    def ask(self, pause: SpeechPaused, turn_id: str | None) -> list[Effect]:
        """A pause has begun."""
        if not pause.is_scored:
            return []
        self._turn_id = turn_id
        first = max(pause.first_frame, pause.end_frame - MOST_FRAMES)
        return [Score(pause, self._heard.samples(first, pause.end_frame))]

    def tell(self, pause: SpeechPaused, score: float | None, now_s: float) -> list[Effect]:
        """The score of a pause, from 0 to 1; None: nobody can say. It counts once."""
        end_frame = self._detector.score(pause, score)
        if end_frame is None or score is None:
            return []
        effects = self._speculator.weigh(score, end_frame)
        heard = self._detector.frames_heard
        return [*effects, *self._speculator.look_at_pause(self._turn_id, heard, now_s)]
