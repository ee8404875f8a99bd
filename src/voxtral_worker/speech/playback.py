"""Estimates how much of the sent speech the listener has heard.

Pure: it gets the time as an argument. It assumes that a listener plays each piece as soon as the
one before has ended, and drops the rest when the speech is interrupted.
"""

from collections import deque
from dataclasses import dataclass

# How far ahead of the listener speech is sent. The listener's network may stall for so long without
# a gap. More would be wasted whenever the speech is interrupted.
MOST_AHEAD_S = 2.0
# The listener may still report how much it has played of this many latest turns.
TURNS_KEPT = 8
# Usual speed of speech. It is needed for a sentence of which only a part was sent, so that its
# length is not known.
CHARACTERS_PER_SECOND = 15


@dataclass(frozen=True)
class Heard:
    """The part of a turn's speech that was heard. `text` ends with a whole word."""

    turn_id: str
    heard_ms: float
    text: str


@dataclass
class _Sentence:
    text: str
    begin_ms: float
    end_ms: float
    is_whole: bool = False

    def heard_of(self, heard_ms: float) -> str:
        """The words that were heard if `heard_ms` of the turn were heard."""
        if heard_ms <= self.begin_ms:
            return ""
        if not self.is_whole:
            characters = int((heard_ms - self.begin_ms) * CHARACTERS_PER_SECOND / 1000)
        elif heard_ms >= self.end_ms:
            return self.text
        else:
            share = (heard_ms - self.begin_ms) / (self.end_ms - self.begin_ms)
            characters = int(share * len(self.text))
        if characters >= len(self.text):
            return self.text
        # Up to the last space: half a word does not count.
        return self.text[: self.text.rfind(" ", 0, characters + 1) + 1]


class _SpokenTurn:
    """The speech of one turn that was sent so far. Times are in ms from its beginning."""

    def __init__(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self.sent_ms = 0.0
        self.is_over = False
        # The listener's last report: how many ms it has played, and when the report came.
        self.played: tuple[float, float] | None = None
        self._sentences: list[_Sentence] = []

    def sent(self, text: str, duration_ms: float, *, is_final: bool) -> None:
        if text:
            if self._sentences:
                self._sentences[-1].is_whole = True
            self._sentences.append(_Sentence(text, self.sent_ms, self.sent_ms))
        self.sent_ms += duration_ms
        if self._sentences:
            self._sentences[-1].end_ms = self.sent_ms
            self._sentences[-1].is_whole = is_final
        self.is_over = is_final

    def heard_ms(self, unheard_ms: float, now_s: float) -> float:
        """How much was heard: from the listener's report, or else from `unheard_ms`."""
        if self.played is None:
            return self.sent_ms - unheard_ms
        played_ms, at_s = self.played
        return played_ms + 1000 * (now_s - at_s)

    def heard(self, heard_ms: float) -> Heard:
        heard_ms = round(min(max(0.0, heard_ms), self.sent_ms), 3)
        text = "".join(sentence.heard_of(heard_ms) for sentence in self._sentences)
        return Heard(self.turn_id, heard_ms, text)


class Playback:
    """Tracks all speech that is sent to one listener."""

    def __init__(self, most_ahead_s: float = MOST_AHEAD_S) -> None:
        self._most_ahead_s = most_ahead_s
        self._silent_from_s = float("-inf")
        self._turns: deque[_SpokenTurn] = deque(maxlen=TURNS_KEPT)

    def ahead_s(self, now_s: float) -> float:
        """Seconds of speech that were sent but are not heard yet."""
        return max(0.0, self._silent_from_s - now_s)

    def wait_s(self, duration_ms: float, now_s: float) -> float:
        """Seconds until a piece of that length may be sent."""
        ahead_s = self.ahead_s(now_s)
        # A piece longer than the limit is sent once nothing else is ahead.
        return max(0.0, min(ahead_s, ahead_s + duration_ms / 1000 - self._most_ahead_s))

    def sent(
        self, turn_id: str, text: str, duration_ms: float, now_s: float, *, is_final: bool
    ) -> float:
        """Note a piece that was sent. `text` is the sentence that starts with it, or empty.

        Returns the position of the piece in the turn's speech, in ms.
        """
        turn = self._find(turn_id)
        if turn is None:
            turn = _SpokenTurn(turn_id)
            self._turns.append(turn)
        offset_ms = turn.sent_ms
        turn.sent(text, duration_ms, is_final=is_final)
        self._silent_from_s = max(self._silent_from_s, now_s) + duration_ms / 1000
        return offset_ms

    def audible(self, now_s: float) -> list[Heard]:
        """The heard part of each turn that was not heard to its end, oldest turn first."""
        unheard_ms = 1000 * self.ahead_s(now_s)
        found: list[Heard] = []
        for turn in reversed(self._turns):
            if unheard_ms <= 0 and turn.is_over:
                break
            found.insert(0, turn.heard(turn.heard_ms(unheard_ms, now_s)))
            unheard_ms -= turn.sent_ms
        return found

    def cut(self, now_s: float) -> list[Heard]:
        """Note that the speech was interrupted. Returns the same as `audible`."""
        found = self.audible(now_s)
        for heard in found:
            turn = self._find(heard.turn_id)
            assert turn is not None
            turn.is_over = True
        self._silent_from_s = min(self._silent_from_s, now_s)
        return found

    def played(self, turn_id: str, played_ms: float, now_s: float) -> Heard | None:
        """Note a listener's report. Returns the heard part; None for a turn that is too old."""
        turn = self._find(turn_id)
        if turn is None:
            return None
        turn.played = (played_ms, now_s)
        return turn.heard(played_ms)

    def forget(self, turn_id: str) -> None:
        """Forget what was sent of a turn: its speech starts again from the beginning."""
        kept = (turn for turn in self._turns if turn.turn_id != turn_id)
        self._turns = deque(kept, maxlen=TURNS_KEPT)

    def _find(self, turn_id: str) -> _SpokenTurn | None:
        return next((turn for turn in self._turns if turn.turn_id == turn_id), None)
