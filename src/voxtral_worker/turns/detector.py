"""Decides when the user's turn starts and when it ends.

The detector reads one speech probability per frame. It keeps time by counting frames,
never by asking a clock: a recording replayed at any speed gives the same turns.

    QUIET ───speech───▶ ONSET ──min speech──▶ SPEAKING ◀──speech──▶ PAUSED
      ▲                   │                                            │
      └──────silence──────┘                                            │
      └─────────────────── silence of the endpoint ────────────────────┘

A turn that reaches its longest length is cut at the quietest place near its end. What was said
behind the cut opens the next turn at once. If nothing was, the turn ends with its pause, and
speech that continues within `silence_ms` opens the next turn (CUT).

How much silence ends a turn is decided in `endpoint.py`. With `Waits` it depends on a score of the
pause, which another part computes. The score is due before the frame that `needs_score` holds
back, so it does not matter when it comes.

A turn that has ended by itself opens again when speech continues within `reopen_ms`.
"""

from dataclasses import dataclass
from enum import Enum

from voxtral_worker.audio.frames import FRAME_MS
from voxtral_worker.turns.endpoint import TAIL_FRAMES, Endpoint, Waits
from voxtral_worker.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEnded,
    TurnEvent,
    TurnReopened,
)
from voxtral_worker.turns.speech_meter import Speech, SpeechMeter

# Speech must be this likely for a turn to start; a little less is enough for it to continue.
THRESHOLDS = {0: 0.8, 1: 0.65, 2: 0.5, 3: 0.3}
HYSTERESIS = 0.15
PRE_ROLL_FRAMES = 10
# Four frames are 128 ms: shorter than any word, longer than most clicks and pops.
MIN_SPEECH_FRAMES = 4
# An onset may dip below the threshold for this long without being forgotten.
ONSET_DIP_FRAMES = 2


class _State(Enum):
    QUIET = "quiet"
    ONSET = "onset"
    SPEAKING = "speaking"
    PAUSED = "paused"
    CUT = "cut"


@dataclass(frozen=True)
class _Ended:
    """A turn that opens again when speech continues before frame `until`."""

    first_frame: int
    speech_before: Speech
    until: int


class TurnDetector:
    """At most one turn is open; turns never overlap, and none is longer than the longest."""

    def __init__(
        self, sensitivity: int = 2, silence_ms: int = 500, max_turn_frames: int = 9375
    ) -> None:
        """`max_turn_frames` leaves room for an onset and a cut: at least 24 frames."""
        # Frames of speech that make a turn. While a response is being made, it may take more to
        # interrupt it.
        self.least_speech_frames = MIN_SPEECH_FRAMES
        self._max_turn_frames = max_turn_frames
        # Counts the frames, and the speech in them.
        self._meter = SpeechMeter(max_turn_frames)
        # Decides how much silence ends a turn.
        self._endpoint = Endpoint(silence_ms)
        self._state = _State.QUIET
        # Where the audio of the open turn, or of the onset, begins.
        self._first_frame = 0
        # No later turn may reach back before this frame.
        self._not_before = 0
        # The turn that speech would open again. None: speech opens a new turn.
        self._ended: _Ended | None = None
        self.reconfigure(sensitivity, silence_ms)

    def reconfigure(
        self,
        sensitivity: int,
        silence_ms: int,
        threshold: float | None = None,
        pre_roll_ms: int = PRE_ROLL_FRAMES * FRAME_MS,
        *,
        reopen_ms: int = 0,
        waits: Waits | None = None,
    ) -> None:
        """Change what counts as speech and as the end; an open turn stays open.

        `threshold`, a probability, replaces the one that `sensitivity` stands for. A pre-roll is
        at most half of the longest turn. Without `waits` no pause is scored.
        """
        # Speech must be this likely for a turn to start.
        self._threshold = THRESHOLDS[sensitivity] if threshold is None else threshold
        # A turn's audio begins this long before its first speech.
        self._pre_roll_frames = min(-(-pre_roll_ms // FRAME_MS), self._max_turn_frames // 2)
        # For this long after its end a turn may open again.
        self._reopen_frames = -(-reopen_ms // FRAME_MS)
        self._endpoint.configure(silence_ms, waits)

    @property
    def frames_heard(self) -> int:
        """How many frames were heard."""
        return self._meter.frames

    @property
    def is_open(self) -> bool:
        """Whether a turn has started and not ended."""
        return self._state in (_State.SPEAKING, _State.PAUSED)

    @property
    def is_reopenable(self) -> bool:
        """Whether speech that comes now may open the turn again that ended last."""
        return self._ended is not None

    @property
    def goes_on(self) -> bool:
        """Whether speech that comes now continues a turn: an open one, or one that has ended."""
        return self.is_open or self.is_reopenable or self._state is _State.CUT

    @property
    def needs_score(self) -> bool:
        """Whether the score of the pause must come before the next frame is heard."""
        return self._endpoint.needs_score(self._meter.silence_frames)

    @property
    def oldest_needed_frame(self) -> int:
        """The first frame that a turn may still need.

        For a turn that may open again, that is the first after its end: its own audio is known.
        """
        if self._ended is not None:
            return self._not_before
        if self._state in (_State.QUIET, _State.CUT):
            return max(self._not_before, self.frames_heard - self._pre_roll_frames)
        return self._first_frame

    def hear(self, probability: float, energy: float) -> tuple[TurnEvent, ...]:
        """Take one frame's speech probability, and its energy in any unit."""
        before = self._state
        least = self._threshold - (0.0 if before is _State.QUIET else HYSTERESIS)
        is_speech = probability >= least
        if is_speech and before in (_State.QUIET, _State.CUT):
            self._begin()
        self._meter.add(energy, is_speech=is_speech)
        events = self._hear_speech(before) if is_speech else self._hear_silence()
        if self.is_open and self.frames_heard - self._first_frame >= self._max_turn_frames:
            return (*events, *self._cut())
        return events

    def score(self, pause: SpeechPaused, score: float | None) -> int | None:
        """Take how complete the words before a pause sound, from 0 to 1; None: unknown.

        Returns how many frames will have been heard when the pause ends the turn, unless speech
        continues. None: the score is of an earlier pause, or a second one. It is ignored.
        """
        if not self._endpoint.take_score(pause, score):
            return None
        return self._meter.last_speech_frame + self._endpoint.needed_frames + 1

    def end_turn(self, reason: str = "end_turn") -> tuple[TurnEvent, ...]:
        """End the turn now. No events if there was no speech at all."""
        if self._state is _State.ONSET and self._meter.speech_frames >= MIN_SPEECH_FRAMES:
            # It was not enough to interrupt a response, but it is a turn if a caller ends it.
            opened = self._open()
            return (opened, self._end(reason))
        self.close()
        if self._state in (_State.QUIET, _State.CUT):
            self._state = _State.QUIET
            return ()
        return (self._end(reason),)

    def close(self) -> None:
        """Make the end of the last turn final: speech that comes now opens a new turn."""
        self._ended = None

    def _hear_speech(self, before: _State) -> tuple[TurnEvent, ...]:
        if before is _State.CUT:
            return (SpeechStarted(self._first_frame, goes_on=True),)
        if before is _State.PAUSED:
            self._state = _State.SPEAKING
            self._endpoint.end_pause()
            return (SpeechResumed(),)
        least = self.least_speech_frames if self._ended is None else MIN_SPEECH_FRAMES
        if self._state is _State.ONSET and self._meter.speech_frames >= least:
            return (self._open(),)
        return ()

    def _hear_silence(self) -> tuple[TurnEvent, ...]:
        silence, endpoint = self._meter.silence_frames, self._endpoint
        # Between two words an onset may dip for longer.
        is_word = self._meter.speech_frames >= MIN_SPEECH_FRAMES
        dip = TAIL_FRAMES if is_word else ONSET_DIP_FRAMES
        if self._state is _State.ONSET and silence > dip:
            self._state = _State.QUIET
        if self._state is _State.CUT and silence >= endpoint.silence_frames:
            self._state = _State.QUIET
        is_quiet = self._state is _State.QUIET
        if is_quiet and self._ended is not None and self.frames_heard >= self._ended.until:
            self.close()
        events: tuple[TurnEvent, ...] = ()
        if self._state is _State.SPEAKING and silence >= endpoint.tail_frames:
            self._state = _State.PAUSED
            pause = endpoint.begin_pause(self._first_frame, self._end_frame(), self._meter)
            events = (pause,)
        if self._state is _State.PAUSED and silence >= endpoint.needed_frames:
            return (*events, self._end(endpoint.reason))
        return events

    def _begin(self) -> None:
        """Begin an onset with the next frame, or the turn behind a cut."""
        self._state = _State.SPEAKING if self._state is _State.CUT else _State.ONSET
        self._first_frame = max(self._not_before, self.frames_heard - self._pre_roll_frames)
        self._meter.begin(may_reopen=self._ended is not None)

    def _open(self) -> SpeechStarted | TurnReopened:
        """Make the onset a turn, or more of the one before it."""
        self._state = _State.SPEAKING
        ended = self._ended
        self.close()
        if ended is None:
            return SpeechStarted(self._first_frame)
        self._first_frame, self._meter.before = ended.first_frame, ended.speech_before
        return TurnReopened(self._first_frame)

    def _cut(self) -> tuple[TurnEvent, ...]:
        """End a turn that is too long, and open the next one with what is behind the cut."""
        cut = self._meter.quietest_frame()
        if self._meter.last_speech_frame < cut:
            ended = self._end("too_long")
            self._state = _State.CUT
            return (ended,)
        last_speech_frame, speech_frames = self._meter.split(cut)
        ended = TurnEnded(self._first_frame, cut, last_speech_frame, speech_frames, "too_long")
        self._first_frame = self._not_before = cut
        self._endpoint.end_pause()
        started = SpeechStarted(cut, goes_on=True)
        if self._state is _State.PAUSED:
            # The pause is that of the turn that has just started.
            return (ended, started, SpeechPaused(cut, self._end_frame()))
        return (ended, started)

    def _end(self, reason: str) -> TurnEnded:
        ended = TurnEnded(
            self._first_frame,
            self._end_frame(),
            self._meter.last_speech_frame,
            self._meter.speech_frames,
            reason,
            self._endpoint.score if reason in ("silence", "semantic") else None,
        )
        self._state = _State.QUIET
        self._not_before = ended.end_frame
        self._endpoint.end_pause()
        self._ended = self._reopenable(reason)
        return ended

    def _end_frame(self) -> int:
        """Where the turn's audio ends, if it ends with the silence so far."""
        most = self._meter.last_speech_frame + 1 + self._endpoint.tail_frames
        return min(self.frames_heard, most)

    def _reopenable(self, reason: str) -> _Ended | None:
        """The turn that ends now, if it may open again.

        Only a turn that ended by itself may. A gap in the stream has no length on the audio's
        clock, and a turn that would be too long when it opens again stays closed.
        """
        until = self.frames_heard + self._reopen_frames
        longest = until + MIN_SPEECH_FRAMES * (1 + ONSET_DIP_FRAMES) - self._first_frame
        may = reason in ("silence", "semantic") and self._reopen_frames > 0
        if not may or longest >= self._max_turn_frames:
            return None
        return _Ended(self._first_frame, self._meter.before, until)
