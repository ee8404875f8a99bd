"""Keeps the spoken turn that ended last, as long as it may go on, and takes its answer back."""

from dataclasses import dataclass

from voxtral_worker.engine.conversation import Audio
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.effects import Effect
from voxtral_worker.sessions.heard_frames import FRAME_SAMPLES, HeardFrames
from voxtral_worker.sessions.pending import Pending, Said
from voxtral_worker.turns.detector import TurnDetector, TurnEnded


@dataclass(frozen=True)
class KeptTurn:
    """A turn that has ended, with what is needed to go on with it.

    `said` is what the user had said before it that belonged to it, `start_bytes` the audio that
    had come before it; `times` counts how often it has ended.
    """

    turn_id: str
    ended: TurnEnded
    audio: Audio
    said: Said
    start_bytes: int
    times: int


class Reopening:
    """At most one turn is kept, and only while the turn detector would open it again."""

    def __init__(
        self, detector: TurnDetector, answers: Answers, pending: Pending, heard: HeardFrames
    ) -> None:
        self._detector = detector
        self._answers = answers
        self._pending = pending
        self._heard = heard
        self._kept: KeptTurn | None = None

    @property
    def bytes(self) -> int:
        """What it takes that nobody else holds."""
        kept = self._kept
        if kept is None or self._answers.holds(kept.turn_id):
            return 0
        return kept.audio.nbytes

    def keep(self, turn: KeptTurn) -> None:
        """A turn has ended, and is being answered."""
        self._kept = turn if self._detector.is_reopenable else None

    def close(self) -> None:
        """What was said is done with: whatever is said now is another turn."""
        self._detector.close()
        self._kept = None

    def look(self) -> None:
        """Let go of a turn that cannot go on, as its time is over or its sound has no room."""
        kept = self._kept
        if kept is None:
            return
        frames = kept.ended.end_frame - kept.ended.first_frame
        size = frames * FRAME_SAMPLES * 4 + self._answers.bytes_to_answer(frames * FRAME_SAMPLES)
        if not self._detector.is_reopenable or not self._answers.memory.has_room(size):
            self.close()

    def reopen(self, now_s: float) -> tuple[KeptTurn, list[Effect]]:
        """The turn goes on: its sound is heard again, and its answer is taken back."""
        kept, self._kept = self._kept, None
        # The detector opens again only what is kept.
        assert kept is not None
        samples = kept.audio.samples
        effects = self._answers.withdraw(kept.turn_id, kept.start_bytes, now_s)
        self._heard.restore(samples, kept.ended.first_frame, kept.start_bytes, now_s)
        self._pending.put_back(kept.said)
        return kept, effects
