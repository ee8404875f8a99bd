"""Decides when the user's turn starts and when it ends.

The detector reads one speech probability per frame. It keeps time by counting frames,
never by asking a clock: a recording replayed at any speed gives the same turns.

    QUIET ───speech───▶ ONSET ──min speech──▶ SPEAKING ◀──speech──▶ PAUSED
      ▲                   │                                            │
      └──────silence──────┘                                            │
      └────────────────── silence of `silence_ms` ─────────────────────┘

A turn that reaches its longest length is cut at the quietest place near its end. What was said
behind the cut opens the next turn at once. If nothing was, the turn ends with its pause, and
speech that goes on within `silence_ms` opens the next turn (CUT).

With `Waits` a pause needs more or less silence than `silence_ms`, by how complete the words before
it sound. Somebody else looks at the sound, once for each pause, and says a score. It is due before
the frame that `needs_score` holds back, so that it does not matter when it comes.

A turn that has ended by itself opens again when speech goes on within `reopen_ms`.
"""

from collections import deque
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
# A turn that is too long is cut within its last five seconds: sentences pause more often.
CUT_SEARCH_FRAMES = 5000 // FRAME_MS
# The quietest place is this long: shorter would find the closure of a consonant inside a word.
QUIET_FRAMES = 4
# The silence, in ms, that a pause needs at `silence_ms` 500: where the words before it are surely
# complete, where they seem to be, where they do not, and where nobody can say.
WAITS_MS = {
    "low": (512, 800, 1600, 800),
    "medium": (224, 576, 960, 544),
    "high": (224, 352, 640, 416),
}
SURELY_COMPLETE = 0.85
SEEMS_COMPLETE = 0.5
# No pause that is scored ends a turn earlier, so that there is time for the score.
SCORE_DUE_FRAMES = 7
# Scores of less than a second of speech are no better than chance.
SCORED_SPEECH_FRAMES = 32
# In noise they are not much better: the pause must be 20 dB quieter than the speech.
SCORED_ENERGY_RATIO = 100.0


@dataclass(frozen=True)
class SpeechStarted:
    """A turn is open; `first_frame` counts from the first frame ever heard.

    With `goes_on` it is the rest of a turn that was too long, and no answer to anything.
    """

    first_frame: int
    goes_on: bool = False


@dataclass(frozen=True)
class TurnReopened:
    """The turn that ended last is open again: it began with `first_frame`."""

    first_frame: int


@dataclass(frozen=True)
class SpeechPaused:
    """Were the turn to end with this pause, its audio would be [`first_frame`, `end_frame`).

    With `is_scored` the detector waits for `score`.
    """

    first_frame: int
    end_frame: int
    is_scored: bool = False


@dataclass(frozen=True)
class SpeechResumed:
    """The pause was none: speech goes on in the same turn."""


@dataclass(frozen=True)
class TurnEnded:
    """The turn is over: its audio is [`first_frame`, `end_frame`).

    `reason` is `silence`, `semantic`, `end_turn`, `stalled` or `too_long`; `completeness`, from
    0 to 1, is the score of the pause that ended it.
    """

    first_frame: int
    end_frame: int
    last_speech_frame: int
    speech_frames: int
    reason: str
    completeness: float | None = None


TurnEvent: TypeAlias = SpeechStarted | TurnReopened | SpeechPaused | SpeechResumed | TurnEnded


@dataclass(frozen=True)
class Waits:
    """How many frames of silence end a turn, by the score of the pause; None: nobody knows."""

    surely: int
    seemingly: int
    hardly: int
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
        """The same, but none of them shorter than so much silence."""
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


class _State(Enum):
    QUIET = "quiet"
    ONSET = "onset"
    SPEAKING = "speaking"
    PAUSED = "paused"
    CUT = "cut"


@dataclass(frozen=True)
class _Speech:
    """Frames of speech that were ever heard, and how loud all of them were."""

    frames: int = 0
    energy: float = 0.0


@dataclass(frozen=True)
class _Heard:
    """How loud a frame was, and what was known when it had been heard."""

    energy: float
    last_speech_frame: int
    speech: _Speech


@dataclass(frozen=True)
class _Ended:
    """A turn that opens again when speech goes on before frame `until`."""

    first_frame: int
    speech_before: _Speech
    until: int


class TurnDetector:
    """At most one turn is open; turns never overlap, and none is longer than the longest."""

    def __init__(
        self, sensitivity: int = 2, silence_ms: int = 500, max_turn_frames: int = 9375
    ) -> None:
        """`max_turn_frames` leaves room for an onset and a cut: at least 24 frames."""
        self.frames_heard = 0
        # So many frames of speech make a turn; while a response is being made it may take more
        # to interrupt it.
        self.least_speech_frames = MIN_SPEECH_FRAMES
        self._max_turn_frames = max_turn_frames
        self._state = _State.QUIET
        self._first_frame = 0
        self._last_speech_frame = 0
        # All speech that was ever heard, and what of it was before the turn.
        self._speech = _Speech()
        self._speech_before = _Speech()
        # How loud the frames since the last speech were together.
        self._silent_energy = 0.0
        # A turn must not reach back before this frame.
        self._not_before = 0
        # The turn that speech would open again, and whether the onset is such speech.
        self._ended: _Ended | None = None
        self._reopens = False
        # The pause, if a score for it is awaited or was said, and the score.
        self._scored_pause: SpeechPaused | None = None
        self._awaits_score = False
        self._score: float | None = None
        # The last frames since the turn's first speech. They are at most half of a longest turn,
        # so that what is behind a cut never fills the next turn.
        self._recent: deque[_Heard] = deque(maxlen=min(CUT_SEARCH_FRAMES, max_turn_frames // 2))
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

        `threshold`, a probability, goes before what `sensitivity` stands for. A pre-roll is
        at most half of the longest turn. Without `waits` no pause is scored.
        """
        self._threshold = THRESHOLDS[sensitivity] if threshold is None else threshold
        self._silence_frames = -(-silence_ms // FRAME_MS)
        self._pre_roll_frames = min(-(-pre_roll_ms // FRAME_MS), self._max_turn_frames // 2)
        self._reopen_frames = -(-reopen_ms // FRAME_MS)
        self._waits = waits

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
        """Whether speech that comes now goes on from an earlier frame, in a turn or behind one."""
        return self.is_open or self.is_reopenable or self._state is _State.CUT

    @property
    def needs_score(self) -> bool:
        """Whether the score of the pause must be told before the next frame is heard."""
        silence = self.frames_heard - self._last_speech_frame
        return self._awaits_score and self._waits is not None and silence >= SCORE_DUE_FRAMES

    @property
    def oldest_needed_frame(self) -> int:
        """The first frame that a turn may still ask for.

        Of a turn that may open again those from its end on: its own are known as its audio.
        """
        if self._ended is not None:
            return self._not_before
        if self._state in (_State.QUIET, _State.CUT):
            return max(self._not_before, self.frames_heard - self._pre_roll_frames)
        return self._first_frame

    def hear(self, probability: float, energy: float) -> tuple[TurnEvent, ...]:
        """Take one frame's speech probability, and how loud it was in any unit."""
        frame = self.frames_heard
        self.frames_heard += 1
        is_quiet = self._state is _State.QUIET
        is_speech = probability >= self._threshold - (0.0 if is_quiet else HYSTERESIS)
        if is_speech:
            self._silent_energy = 0.0
            events = self._hear_speech(frame, energy)
        else:
            self._silent_energy += energy
            events = self._hear_silence(frame)
        self._recent.append(_Heard(energy, self._last_speech_frame, self._speech))
        if self.is_open and self.frames_heard - self._first_frame >= self._max_turn_frames:
            return (*events, *self._cut())
        return events

    def score(self, pause: SpeechPaused, score: float | None) -> int | None:
        """How complete the words before a pause sound, from 0 to 1; None: nobody can say.

        Returns how many frames will have been heard when the pause ends the turn, unless speech
        goes on. What is said of an earlier pause, or a second time, changes nothing: None.
        """
        if not self._awaits_score or pause != self._scored_pause:
            return None
        self._awaits_score = False
        self._score = score
        return self._last_speech_frame + self._needed_silence() + 1

    def end_turn(self, reason: str = "end_turn") -> tuple[TurnEvent, ...]:
        """The turn is over now; nothing when there was no speech at all."""
        if self._state is _State.ONSET and self._speech_frames() >= MIN_SPEECH_FRAMES:
            # It was not enough to interrupt a response, but it is a turn to whoever ends it.
            opened = self._open()
            return (opened, self._end(reason))
        self.close()
        if self._state in (_State.QUIET, _State.CUT):
            self._state = _State.QUIET
            return ()
        return (self._end(reason),)

    def close(self) -> None:
        """The turn that ended last stays as it is, whatever comes."""
        self._ended = None
        self._reopens = False

    def _hear_speech(self, frame: int, energy: float) -> tuple[TurnEvent, ...]:
        before = self._state
        if before in (_State.QUIET, _State.CUT):
            self._begin(frame)
        self._last_speech_frame = frame
        self._speech = _Speech(self._speech.frames + 1, self._speech.energy + energy)
        if before is _State.CUT:
            return (SpeechStarted(self._first_frame, goes_on=True),)
        if self._state is _State.ONSET and self._speech_frames() >= self._speech_to_start():
            return (self._open(),)
        if before is _State.PAUSED:
            self._state = _State.SPEAKING
            self._forget_pause()
            return (SpeechResumed(),)
        return ()

    def _begin(self, frame: int) -> None:
        """Speech out of silence: the first frame of an onset, or of what is behind a cut."""
        self._state = _State.SPEAKING if self._state is _State.CUT else _State.ONSET
        self._first_frame = max(self._not_before, frame - self._pre_roll_frames)
        self._speech_before = self._speech
        self._reopens = self._ended is not None
        if not self._reopens:
            self._recent.clear()

    def _open(self) -> SpeechStarted | TurnReopened:
        """The onset is speech: a turn, or more of the one before it."""
        self._state = _State.SPEAKING
        ended = self._ended if self._reopens else None
        self.close()
        if ended is None:
            return SpeechStarted(self._first_frame)
        self._first_frame, self._speech_before = ended.first_frame, ended.speech_before
        return TurnReopened(self._first_frame)

    def _speech_to_start(self) -> int:
        """Frames of speech that make an onset a turn."""
        return MIN_SPEECH_FRAMES if self._reopens else self.least_speech_frames

    def _speech_frames(self) -> int:
        return self._speech.frames - self._speech_before.frames

    def _hear_silence(self, frame: int) -> tuple[TurnEvent, ...]:
        silence = frame - self._last_speech_frame
        if self._state is _State.ONSET and silence > self._dip():
            self._state = _State.QUIET
        if self._state is _State.CUT and silence >= self._silence_frames:
            self._state = _State.QUIET
        if (
            self._ended is not None
            and self._state is _State.QUIET
            and frame + 1 >= self._ended.until
        ):
            self.close()
        events: tuple[TurnEvent, ...] = ()
        if self._state is _State.SPEAKING and silence >= self._tail():
            self._state = _State.PAUSED
            events = (self._begin_pause(),)
        if self._state is _State.PAUSED and silence >= self._needed_silence():
            return (*events, self._end(self._reason()))
        return events

    def _dip(self) -> int:
        """Frames that an onset may be below the threshold; between two words that is longer."""
        return ONSET_DIP_FRAMES if self._speech_frames() < MIN_SPEECH_FRAMES else TAIL_FRAMES

    def _needed_silence(self) -> int:
        if self._waits is None:
            return self._silence_frames
        needed = self._waits.after(self._score)
        # Before the score is due it makes no difference whether it was told.
        return max(needed, SCORE_DUE_FRAMES) if self._awaits_score else needed

    def _reason(self) -> str:
        is_sooner = (
            self._waits is not None
            and self._score is not None
            and self._waits.after(self._score) < self._waits.unknown
        )
        return "semantic" if is_sooner else "silence"

    def _cut(self) -> tuple[TurnEvent, ...]:
        """End a turn that is too long, and open the next one with what is behind the cut."""
        cut = self._quietest_place()
        if self._last_speech_frame < cut:
            ended = self._end("too_long")
            self._state = _State.CUT
            return (ended,)
        before = self._recent[cut - 1 - self.frames_heard]
        speech_frames = before.speech.frames - self._speech_before.frames
        ended = TurnEnded(
            self._first_frame, cut, before.last_speech_frame, speech_frames, "too_long"
        )
        self._first_frame = self._not_before = cut
        self._speech_before = before.speech
        started = SpeechStarted(cut, goes_on=True)
        self._forget_pause()
        if self._state is _State.PAUSED:
            # The pause is that of the turn that has just started.
            return (ended, started, SpeechPaused(self._first_frame, self._end_frame()))
        return (ended, started)

    def _quietest_place(self) -> int:
        """The frame in the middle of the quietest few of the last frames; of equals, the latest."""
        energies = [heard.energy for heard in self._recent]
        starts = range(len(energies) - QUIET_FRAMES + 1)
        loudness = {start: sum(energies[start : start + QUIET_FRAMES]) for start in starts}
        quietest = min(reversed(starts), key=loudness.__getitem__)
        return self.frames_heard - len(energies) + quietest + QUIET_FRAMES // 2

    def _begin_pause(self) -> SpeechPaused:
        is_scored = self._waits is not None and self._is_worth_a_score()
        pause = SpeechPaused(self._first_frame, self._end_frame(), is_scored)
        if is_scored:
            self._scored_pause, self._awaits_score = pause, True
        return pause

    def _is_worth_a_score(self) -> bool:
        """Whether there is enough speech before the pause, and little enough sound in it."""
        frames = self._speech_frames()
        silent_frames = self.frames_heard - 1 - self._last_speech_frame
        loudness = (self._speech.energy - self._speech_before.energy) / max(1, frames)
        noise = self._silent_energy / max(1, silent_frames)
        return frames >= SCORED_SPEECH_FRAMES and noise * SCORED_ENERGY_RATIO <= loudness

    def _forget_pause(self) -> None:
        self._scored_pause, self._awaits_score, self._score = None, False, None

    def _tail(self) -> int:
        return min(TAIL_FRAMES, self._silence_frames)

    def _end_frame(self) -> int:
        return min(self.frames_heard, self._last_speech_frame + 1 + self._tail())

    def _end(self, reason: str) -> TurnEnded:
        ended = TurnEnded(
            self._first_frame,
            self._end_frame(),
            self._last_speech_frame,
            self._speech_frames(),
            reason,
            self._score if reason in ("silence", "semantic") else None,
        )
        self._state = _State.QUIET
        self._not_before = ended.end_frame
        self._forget_pause()
        self._ended = self._reopenable(reason)
        return ended

    def _reopenable(self, reason: str) -> _Ended | None:
        """The turn that ends now, if it may open again.

        What ended by itself may. A gap in the stream has no length on the audio's clock, and a
        turn that would be too long when it opens again stays closed.
        """
        until = self.frames_heard + self._reopen_frames
        longest = until + MIN_SPEECH_FRAMES * (1 + ONSET_DIP_FRAMES) - self._first_frame
        may = reason in ("silence", "semantic") and self._reopen_frames > 0
        if not may or longest >= self._max_turn_frames:
            return None
        return _Ended(self._first_frame, self._speech_before, until)
