"""Sends answers to the voice, and keeps in the history which words of their speech were heard."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Effect, EndSpeech, Hush, Speak, Tell
from voxtral_worker.sessions.history import History
from voxtral_worker.speech.pieces import SpeechFormat, SpokenPiece
from voxtral_worker.speech.playback import TURNS_KEPT, Playback


class Cut(NamedTuple):
    """The effects of interrupting speech, and the heard words of each turn."""

    effects: list[Effect]
    heard: dict[str, str]


@dataclass
class _Turn:
    """A turn that is being spoken, until its last word was given and its last piece has come."""

    has_ended: bool = False
    has_failed: bool = False
    has_last_piece: bool = False


class Speaking:
    """The turns that are being spoken, and the playback of their speech at the client."""

    def __init__(self, history: History) -> None:
        self.playback = Playback()
        # Whether a client is connected to hear it and the worker has a voice. The driver sets it.
        self.is_listened_to: Callable[[], bool] = lambda: False
        # In the order in which they began.
        self._turns: dict[str, _Turn] = {}
        self._history = history
        # The turns cut last: a client may still report how much of them it has played.
        self._cut: deque[str] = deque(maxlen=TURNS_KEPT)

    def format_of(self, config: SessionConfig) -> SpeechFormat | None:
        """How a turn that begins now is spoken; None: it is not spoken."""
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
        """Speak words of a turn; do nothing if it has no format or its voice has failed."""
        if format_ is None or not text:
            return []
        if self._turns.setdefault(turn_id, _Turn()).has_failed:
            return []
        return [Speak(turn_id, text, format_)]

    def end(self, turn_id: str) -> list[Effect]:
        """End a turn's speech: no more words follow."""
        turn = self._turns.get(turn_id)
        if turn is None:
            return []
        turn.has_ended = True
        self._forget_if_over(turn_id, turn)
        return [EndSpeech(turn_id)]

    def is_spoken(self, turn_id: str) -> bool:
        """Whether more pieces of a turn will come."""
        return turn_id in self._turns and not self._turns[turn_id].has_last_piece

    def spoke(self, piece: SpokenPiece, now_s: float) -> list[Effect]:
        """Send a piece to the client now."""
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

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> list[Effect]:
        """Continue a turn as text only. The client gets the error if it `is_news`."""
        if turn_id in self._turns:
            self._turns[turn_id].has_failed = True
        return [Tell(events.Refused(error))] if is_news else []

    def stop(self, why: events.Why, now_s: float, spared: str | None) -> Cut:
        """Stop all speech. The result is empty if none was being made or played.

        Each turn gets a Stopped event, but for the one that is `spared`: its caller reports it.
        """
        # If the voice has failed, the user reads the answer: all of it counts as known.
        read = {turn_id for turn_id, turn in self._turns.items() if turn.has_failed}
        cut = {each.turn_id: each.text for each in self.playback.cut(now_s)}
        # No piece of these was sent yet, so no word of them was heard.
        cut |= {turn_id: "" for turn_id in self._turns if turn_id not in cut}
        heard = {turn_id: text for turn_id, text in cut.items() if turn_id not in read}
        self._cut.extend(heard)
        effects: list[Effect] = [Hush()] if self._turns else []
        self._turns.clear()
        for turn_id, text in heard.items():
            if turn_id != spared:
                # The text of this turn is complete and in the history; only its speech stops.
                # The history keeps what the user heard, as the model should not build on the rest.
                self._history.shorten(turn_id, text)
                effects.append(Tell(events.Stopped(turn_id, why)))
        return Cut(effects, heard)

    def played(self, turn_id: str, played_ms: float, now_s: float, *, is_all: bool = False) -> str:
        """Note that a client has played `played_ms` of a turn's speech. Returns those words.

        If the turn was interrupted, or with `is_all`, the client will play no more of it: the
        history then keeps these words alone. Raises BadInput if no speech of the turn is known.
        """
        heard = self.playback.played(turn_id, played_ms, now_s)
        if heard is None:
            raise BadInput(f"turn_id is {turn_id[:60]!a}, but no speech of such a turn is known")
        if is_all or turn_id in self._cut:
            self._history.shorten(turn_id, heard.text)
        return heard.text

    def is_audible(self, now_s: float) -> bool:
        """Whether any speech is still being made or played."""
        return bool(self._turns) or self.playback.ahead_s(now_s) > 0

    def is_heard(self, turn_id: str, now_s: float) -> bool:
        """Whether speech of this turn is still being made or played."""
        audible = (heard.turn_id for heard in self.playback.audible(now_s))
        return turn_id in self._turns or turn_id in audible

    def forget(self, turn_id: str) -> None:
        """Forget a turn's speech: the turn will be answered again."""
        self.playback.forget(turn_id)
        self._cut = deque((each for each in self._cut if each != turn_id), maxlen=TURNS_KEPT)

    def give_up(self) -> list[Effect]:
        """Stop all speech, because the session ends."""
        is_speaking = bool(self._turns)
        self._turns.clear()
        return [Hush()] if is_speaking else []

    def _forget_if_over(self, turn_id: str, turn: _Turn) -> None:
        if turn.has_ended and turn.has_last_piece:
            del self._turns[turn_id]
