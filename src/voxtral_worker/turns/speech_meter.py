"""Counts the frames of a stream: how many were speech, and how loud they were."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from voxtral_worker.audio.frames import FRAME_MS

# A turn that is too long is cut within its last five seconds: sentences pause more often.
CUT_SEARCH_FRAMES = 5000 // FRAME_MS
# The quietest place is this long: shorter would find the closure of a consonant inside a word.
QUIET_FRAMES = 4


@dataclass(frozen=True)
class Speech:
    """A number of frames of speech, and their energy together."""

    frames: int = 0
    energy: float = 0.0


class _Heard(NamedTuple):
    """The energy of a frame, and what was known after it."""

    energy: float
    last_speech_frame: int
    speech: Speech


class SpeechMeter:
    """What was heard of a stream, and which part of it belongs to the turn."""

    def __init__(self, max_turn_frames: int) -> None:
        """`max_turn_frames`: length of the longest turn."""
        # All frames that were ever heard.
        self.frames = 0
        self.last_speech_frame = 0
        # All speech that came before the turn. Without an open turn: before the last onset.
        self.before = Speech()
        # All speech that was ever heard.
        self._speech = Speech()
        # The energy of the frames since the last speech.
        self._silent_energy = 0.0
        # The last frames since the turn's first speech. They are at most half of a longest turn,
        # so that what is behind a cut never fills the next turn.
        self._recent: deque[_Heard] = deque(maxlen=min(CUT_SEARCH_FRAMES, max_turn_frames // 2))

    @property
    def speech_frames(self) -> int:
        """Frames of speech in the turn."""
        return self._speech.frames - self.before.frames

    @property
    def silence_frames(self) -> int:
        """Frames since the last speech."""
        return self.frames - 1 - self.last_speech_frame

    @property
    def loudness(self) -> float:
        """Energy of a frame of the turn's speech, on average."""
        return (self._speech.energy - self.before.energy) / max(1, self.speech_frames)

    @property
    def noise(self) -> float:
        """Energy of a frame since the last speech, on average."""
        return self._silent_energy / max(1, self.silence_frames)

    def begin(self, *, may_reopen: bool) -> None:
        """Count the next frame as the first speech of a turn, or of one that may reopen."""
        self.before = self._speech
        if not may_reopen:
            self._recent.clear()

    def add(self, energy: float, *, is_speech: bool) -> None:
        """Count a frame."""
        if is_speech:
            self.last_speech_frame = self.frames
            self._silent_energy = 0.0
            self._speech = Speech(self._speech.frames + 1, self._speech.energy + energy)
        else:
            self._silent_energy += energy
        self.frames += 1
        self._recent.append(_Heard(energy, self.last_speech_frame, self._speech))

    def quietest_frame(self) -> int:
        """The frame in the middle of the quietest few of the last frames; of equals, the latest."""
        energies = [heard.energy for heard in self._recent]
        starts = range(len(energies) - QUIET_FRAMES + 1)
        loudness = {start: sum(energies[start : start + QUIET_FRAMES]) for start in starts}
        quietest = min(reversed(starts), key=loudness.__getitem__)
        return self.frames - len(energies) + quietest + QUIET_FRAMES // 2

    def split(self, frame: int) -> tuple[int, int]:
        """Let a new turn begin with one of the last frames.

        Returns the last frame of speech before it, and the number of frames of speech that the
        turn before it keeps.
        """
        heard = self._recent[frame - 1 - self.frames]
        speech_frames = heard.speech.frames - self.before.frames
        self.before = heard.speech
        return heard.last_speech_frame, speech_frames
