"""Decides when the user's turn starts and when it ends.

The detector reads one speech probability per frame. It keeps time by counting frames,
never by asking a clock: a recording replayed at any speed gives the same turns.

    QUIET ───speech───▶ ONSET ──min speech──▶ SPEAKING ◀──speech──▶ PAUSED
      ▲                   │                                            │
      └──────silence──────┘                                            │
      └────────────────── silence of `silence_ms` ─────────────────────┘
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

FRAME_MS = 32
# Speech must be this likely for a turn to start; a little less lets it go on.
THRESHOLDS = {0: 0.8, 1: 0.65, 2: 0.5, 3: 0.3}
HYSTERESIS = 0.15
PRE_ROLL_FRAMES = 10
# Four frames are 128 ms: shorter than any word, longer than most clicks and pops.
MIN_SPEECH_FRAMES = 4
# An onset may dip below the threshold for this long without being forgotten.
ONSET_DIP_FRAMES = 2
# The turn ends this long after its last speech, so that the end does not depend on how long
# the silence was waited for.
TAIL_FRAMES = 5


@dataclass(frozen=True)
class SpeechStarted:
    """A turn is open; `first_frame` counts from the first frame ever heard."""

    first_frame: int


@dataclass(frozen=True)
class SpeechPaused:
    """Were the turn to end with this pause, its audio would be [`first_frame`, `end_frame`)."""

    first_frame: int
    end_frame: int


@dataclass(frozen=True)
class SpeechResumed:
    """The pause was none: speech goes on in the same turn."""


@dataclass(frozen=True)
class TurnEnded:
    """The turn is over: its audio is [`first_frame`, `end_frame`).

    `reason` is `silence`, `end_turn`, `stalled` or `too_long`.
    """

    first_frame: int
    end_frame: int
    last_speech_frame: int
    speech_frames: int
    reason: str


TurnEvent: TypeAlias = SpeechStarted | SpeechPaused | SpeechResumed | TurnEnded


class _State(Enum):
    QUIET = "quiet"
    ONSET = "onset"
    SPEAKING = "speaking"
    PAUSED = "paused"


class TurnDetector:
    """At most one turn is open; turns never overlap."""

    def __init__(
        self, sensitivity: int = 2, silence_ms: int = 500, max_turn_frames: int = 9375
    ) -> None:
        self.frames_heard = 0
        self._max_turn_frames = max_turn_frames
        self._state = _State.QUIET
        self._first_frame = 0
        self._last_speech_frame = 0
        self._speech_frames = 0
        self._not_before = 0
        self.reconfigure(sensitivity, silence_ms)

    def reconfigure(
        self,
        sensitivity: int,
        silence_ms: int,
        threshold: float | None = None,
        pre_roll_ms: int = PRE_ROLL_FRAMES * FRAME_MS,
    ) -> None:
        """Change what counts as speech and as the end; an open turn stays open.

        `threshold`, a probability, goes before what `sensitivity` stands for.
        """
        self._threshold = THRESHOLDS[sensitivity] if threshold is None else threshold
        self._silence_frames = -(-silence_ms // FRAME_MS)
        self._pre_roll_frames = -(-pre_roll_ms // FRAME_MS)

    @property
    def is_open(self) -> bool:
        """Whether a turn has started and not ended."""
        return self._state in (_State.SPEAKING, _State.PAUSED)

    @property
    def oldest_needed_frame(self) -> int:
        """The first frame that a turn may still ask for."""
        if self._state is _State.QUIET:
            return max(self._not_before, self.frames_heard - self._pre_roll_frames)
        return self._first_frame

    def hear(self, probability: float) -> tuple[TurnEvent, ...]:
        """Take one frame's speech probability."""
        frame = self.frames_heard
        self.frames_heard += 1
        is_quiet = self._state is _State.QUIET
        is_speech = probability >= self._threshold - (0.0 if is_quiet else HYSTERESIS)
        events = self._hear_speech(frame) if is_speech else self._hear_silence(frame)
        if self.is_open and self.frames_heard - self._first_frame >= self._max_turn_frames:
            return (*events, self._end("too_long"))
        return events

    def end_turn(self, reason: str = "end_turn") -> tuple[TurnEvent, ...]:
        """The turn is over now; nothing when there was no speech at all."""
        if self._state is _State.QUIET:
            return ()
        return (self._end(reason),)

    def _hear_speech(self, frame: int) -> tuple[TurnEvent, ...]:
        if self._state is _State.QUIET:
            self._state = _State.ONSET
            self._first_frame = max(self._not_before, frame - self._pre_roll_frames)
            self._speech_frames = 0
        self._last_speech_frame = frame
        self._speech_frames += 1
        if self._state is _State.ONSET and self._speech_frames >= MIN_SPEECH_FRAMES:
            self._state = _State.SPEAKING
            return (SpeechStarted(self._first_frame),)
        if self._state is _State.PAUSED:
            self._state = _State.SPEAKING
            return (SpeechResumed(),)
        return ()

    def _hear_silence(self, frame: int) -> tuple[TurnEvent, ...]:
        silence = frame - self._last_speech_frame
        if self._state is _State.ONSET and silence > ONSET_DIP_FRAMES:
            self._state = _State.QUIET
        events: tuple[TurnEvent, ...] = ()
        if self._state is _State.SPEAKING and silence >= self._tail():
            self._state = _State.PAUSED
            events = (SpeechPaused(self._first_frame, self._end_frame()),)
        if self.is_open and silence >= self._silence_frames:
            return (*events, self._end("silence"))
        return events

    def _tail(self) -> int:
        return min(TAIL_FRAMES, self._silence_frames)

    def _end_frame(self) -> int:
        return min(self.frames_heard, self._last_speech_frame + 1 + self._tail())

    def _end(self, reason: str) -> TurnEnded:
        ended = TurnEnded(
            self._first_frame,
            self._end_frame(),
            self._last_speech_frame,
            self._speech_frames,
            reason,
        )
        self._state = _State.QUIET
        self._not_before = ended.end_frame
        return ended
