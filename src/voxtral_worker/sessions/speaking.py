"""What of the answers is spoken, and what of it was heard."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Effect, EndSpeech, Hush, Speak, Tell
from voxtral_worker.speech.pieces import SpeechFormat, SpokenPiece
from voxtral_worker.speech.playback import TURNS_KEPT, Playback


class Cut(NamedTuple):
    """What is to be done when speech is interrupted, and what was heard of each of its turns."""

    effects: list[Effect]
    heard: dict[str, str]


@dataclass
class _Turn:
    """A turn that is being spoken; it is over once its words and its pieces are."""

    has_ended: bool = False
    has_failed: bool = False
    has_last_piece: bool = False


class Speaking:
    """Turns whose words are given to a voice, and the playback of what comes of them."""

    def __init__(self) -> None:
        self.playback = Playback()
        # Whether somebody is there to hear it, and a voice to say it.
        self.is_listened_to: Callable[[], bool] = lambda: False
        # In the order in which they began.
        self._turns: dict[str, _Turn] = {}
        # The latest that were cut: of these a client may still say what it has played.
        self._cut: deque[str] = deque(maxlen=TURNS_KEPT)

    def format_of(self, config: SessionConfig) -> SpeechFormat | None:
        """How a turn that begins now is spoken; None where it is not."""
        if config.voice is None or config.mode != "chat" or not self.is_listened_to():
            return None
        return SpeechFormat(
            config.voice,
            config.output_encoding,
            config.output_sample_rate,
            config.language,
            config.speech_speed,
        )

    def say(self, turn_id: str, text: str, format_: SpeechFormat | None) -> list[Effect]:
        """Say words of a turn; none where it has no format, or its voice has failed."""
        if format_ is None or not text:
            return []
        if self._turns.setdefault(turn_id, _Turn()).has_failed:
            return []
        return [Speak(turn_id, text, format_)]

    def end(self, turn_id: str) -> list[Effect]:
        """All words of a turn are said."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return []
        turn.has_ended = True
        self._forget_if_over(turn_id, turn)
        return [EndSpeech(turn_id)]

    def is_spoken(self, turn_id: str) -> bool:
        """Whether pieces of a turn are still to come."""
        return turn_id in self._turns and not self._turns[turn_id].has_last_piece

    def spoke(self, piece: SpokenPiece, now_s: float) -> list[Effect]:
        """A piece is ready, and goes out now."""
        offset_ms = self.playback.sent(
            piece.turn_id, piece.text, piece.duration_ms, now_s, is_final=piece.is_final
        )
        turn = self._turns.get(piece.turn_id)
        if turn is not None and piece.is_final:
            turn.has_last_piece = True
            self._forget_if_over(piece.turn_id, turn)
        spoken = events.Spoken(
            piece.turn_id, piece.text, piece.data, offset_ms, piece.duration_ms, piece.is_final
        )
        return [Tell(spoken)]

    def voice_failed(self, turn_id: str) -> None:
        """The rest of a turn can only be read."""
        if turn_id in self._turns:
            self._turns[turn_id].has_failed = True

    def cut(self, now_s: float) -> Cut:
        """Stop all speech; empty where nothing was being spoken or heard."""
        read = {turn_id for turn_id, turn in self._turns.items() if turn.has_failed}
        cut = {each.turn_id: each.text for each in self.playback.cut(now_s)}
        # Of these no sound was sent yet.
        cut |= {turn_id: "" for turn_id in self._turns if turn_id not in cut}
        heard = {turn_id: text for turn_id, text in cut.items() if turn_id not in read}
        self._cut.extend(heard)
        effects: list[Effect] = [Hush()] if self._turns else []
        self._turns.clear()
        return Cut(effects, heard)

    def is_audible(self, now_s: float) -> bool:
        """Whether any turn is being spoken, or not heard to its end."""
        return bool(self._turns) or self.playback.ahead_s(now_s) > 0

    def is_heard(self, turn_id: str, now_s: float) -> bool:
        """Whether a turn is being spoken, or its speech is not heard to its end."""
        audible = (heard.turn_id for heard in self.playback.audible(now_s))
        return turn_id in self._turns or turn_id in audible

    def forget(self, turn_id: str) -> None:
        """A turn begins anew: what was spoken of it counts as not said."""
        self.playback.forget(turn_id)
        self._cut = deque((each for each in self._cut if each != turn_id), maxlen=TURNS_KEPT)

    def was_cut(self, turn_id: str) -> bool:
        """Whether a turn's speech was lately stopped before its end."""
        return turn_id in self._cut

    def give_up(self) -> list[Effect]:
        """The session ends."""
        is_speaking = bool(self._turns)
        self._turns.clear()
        return [Hush()] if is_speaking else []

    def _forget_if_over(self, turn_id: str, turn: _Turn) -> None:
        if turn.has_ended and turn.has_last_piece:
            del self._turns[turn_id]
