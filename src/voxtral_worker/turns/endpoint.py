"""Decides how much silence ends a turn, if wanted by how complete the words before it sound."""

from dataclasses import dataclass

from voxtral_worker.audio.frames import FRAME_MS
from voxtral_worker.turns.events import SpeechPaused
from voxtral_worker.turns.speech_meter import SpeechMeter

# A turn's audio ends this long after its last speech, so that its end does not depend on how much
# silence was needed.
TAIL_FRAMES = 5
# The silence, in ms, that a pause needs at `silence_ms` 500: where the words before it are surely
# complete, where they seem to be, where they do not, and where there is no score.
WAITS_MS = {
    "low": (512, 800, 1600, 800),
    "medium": (224, 576, 960, 544),
    "high": (224, 352, 640, 416),
}
SURELY_COMPLETE = 0.85
SEEMS_COMPLETE = 0.5
# No pause that is scored ends a turn earlier, so that there is time for the score.
SCORE_DUE_FRAMES = 7
# With less than a second of speech, a score is as good as chance.
SCORED_SPEECH_FRAMES = 32
# In noise it is hardly better: the pause must be 20 dB quieter than the speech.
SCORED_ENERGY_RATIO = 100.0


@dataclass(frozen=True)
class Waits:
    """How many frames of silence end a turn, by the score of the pause."""

    surely: int
    seemingly: int
    hardly: int
    # For a pause without a score.
    unknown: int

    @classmethod
    def of(cls, eagerness: str, silence_ms: int) -> "Waits":
        """Those of `low`, `medium` or `high`, scaled as `silence_ms` is to 500."""
        surely, seemingly, hardly, unknown = (
            -(-wait_ms * silence_ms // (500 * FRAME_MS)) for wait_ms in WAITS_MS[eagerness]
        )
        due = SCORE_DUE_FRAMES
        return cls(max(due, surely), max(due, seemingly), max(due, hardly), unknown)

    def at_least(self, silence_ms: int) -> "Waits":
        """The same waits, but each at least `silence_ms`."""
        least = -(-silence_ms // FRAME_MS)
        return Waits(
            *(max(least, n) for n in (self.surely, self.seemingly, self.hardly, self.unknown))
        )

    def after(self, score: float | None) -> int:
        """The frames of silence that a pause with this score needs."""
        if score is None:
            return self.unknown
        if score >= SURELY_COMPLETE:
            return self.surely
        return self.seemingly if score >= SEEMS_COMPLETE else self.hardly


class Endpoint:
    """The rule by which a pause ends a turn, and the score of the pause under way."""

    def __init__(self, silence_ms: int) -> None:
        # The score of the pause under way. None: it has none.
        self.score: float | None = None
        # The pause whose score is awaited. None: no score is.
        self._awaited: SpeechPaused | None = None
        self.configure(silence_ms, None)

    def configure(self, silence_ms: int, waits: Waits | None) -> None:
        """Change the rule, for the pause under way too. Without `waits` no pause is scored."""
        self.silence_frames = -(-silence_ms // FRAME_MS)
        self._waits = waits

    @property
    def tail_frames(self) -> int:
        """Frames of silence that belong to the turn's audio. After them the speech has paused."""
        return min(TAIL_FRAMES, self.silence_frames)

    @property
    def needed_frames(self) -> int:
        """Frames of silence that end the turn in the pause under way."""
        if self._waits is None:
            return self.silence_frames
        needed = self._waits.after(self.score)
        # Before the score is due, it must make no difference whether it has come.
        return needed if self._awaited is None else max(needed, SCORE_DUE_FRAMES)

    @property
    def reason(self) -> str:
        """Why the pause ends the turn: `semantic` if its score made the silence shorter."""
        waits = self._waits
        is_sooner = (
            waits is not None and self.score is not None and waits.after(self.score) < waits.unknown
        )
        return "semantic" if is_sooner else "silence"

    def needs_score(self, silence_frames: int) -> bool:
        """Whether the score must come before the silence is longer than `silence_frames`."""
        is_due = silence_frames + 1 >= SCORE_DUE_FRAMES
        return is_due and self._awaited is not None and self._waits is not None

    def begin_pause(self, first_frame: int, end_frame: int, meter: SpeechMeter) -> SpeechPaused:
        """Begin a pause in a turn; await a score of it, if that is worth its cost."""
        is_scored = self._waits is not None and _is_worth_a_score(meter)
        pause = SpeechPaused(first_frame, end_frame, is_scored)
        self._awaited = pause if is_scored else None
        return pause

    def take_score(self, pause: SpeechPaused, score: float | None) -> bool:
        """Take the score of a pause. False: no score of this pause is awaited."""
        if pause != self._awaited:
            return False
        self._awaited, self.score = None, score
        return True

    def end_pause(self) -> None:
        """Forget the pause under way, and its score."""
        self._awaited = self.score = None


def _is_worth_a_score(meter: SpeechMeter) -> bool:
    """Whether there is enough speech before the pause, and little enough sound in it."""
    has_speech = meter.speech_frames >= SCORED_SPEECH_FRAMES
    return has_speech and meter.noise * SCORED_ENERGY_RATIO <= meter.loudness
