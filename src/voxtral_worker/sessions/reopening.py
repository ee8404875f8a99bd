"""Keeps the last spoken turn while it may still continue, and withdraws its answer if it does."""

from dataclasses import dataclass

from voxtral_worker.audio.frames import FRAME_SAMPLES
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.effects import Effect
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.pending import Pending, Said
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.events import TurnEnded


@dataclass(frozen=True)
class KeptTurn:
    """A turn that has ended, with what is needed to continue it.

    `said`: the pending inputs that became part of it. `start_bytes`: bytes of the stream before
    its audio. `times`: how often it has ended.
    """

    turn_id: str
    ended: TurnEnded
    audio: Audio
    said: Said
    start_bytes: int
    times: int


class Reopening:
    """Keeps at most one turn, and only while the turn detector would open it again.

    The two must agree: whatever ends the wait calls `close`, which clears both.
    """

    def __init__(
        self, detector: TurnDetector, answers: Answers, pending: Pending, heard: HeardFrames
    ) -> None:
        self._detector = detector
        self._answers = answers
        self._pending = pending
        self._heard = heard
        self.kept: KeptTurn | None = None

    @property
    def bytes(self) -> int:
        """Size of the kept audio, unless `Answers` holds and counts the same turn."""
        kept = self.kept
        if kept is None or self._answers.holds(kept.turn_id):
            return 0
        return kept.audio.nbytes

    def keep(self, turn: KeptTurn) -> None:
        """Keep a turn that has ended and is being answered, if it may be reopened."""
        self.kept = turn if self._detector.is_reopenable else None

    def close(self) -> None:
        """Make the next speech a new turn, whatever it follows."""
        self._detector.close()
        self.kept = None

    def look(self) -> None:
        """Drop the kept turn if its time is over, or if continuing it has no room in memory."""
        kept = self.kept
        if kept is None:
            return
        frames = kept.ended.end_frame - kept.ended.first_frame
        size = frames * FRAME_SAMPLES * 4 + self._answers.requests.bytes_to_answer(
            frames * FRAME_SAMPLES
        )
        if not self._detector.is_reopenable or not self._answers.memory.has_room(size):
            self.close()

    def reopen(self, now_s: float) -> tuple[KeptTurn, list[Effect]]:
        """Continue the kept turn: its frames are held again and its answer is withdrawn."""
        kept, self.kept = self.kept, None
        # `close` clears the detector's turn too, so it reopens only a turn that is kept here.
        assert kept is not None
        samples = kept.audio.samples
        effects = self._answers.withdraw(kept.turn_id, kept.start_bytes, now_s)
        self._heard.restore(samples, kept.ended.first_frame, kept.start_bytes, now_s)
        self._pending.put_back(kept.said)
        return kept, effects
