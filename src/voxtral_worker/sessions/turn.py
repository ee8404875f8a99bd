"""A user's turn on its way to an answer."""

from dataclasses import dataclass, replace

from voxtral_worker.engine.conversation import Audio, Exchange, Round, UserTurn
from voxtral_worker.engine.request import Finished
from voxtral_worker.sessions import events
from voxtral_worker.sessions.calling import PendingRound
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, Tell
from voxtral_worker.sessions.memory import bytes_of_round, bytes_of_text, bytes_of_turn
from voxtral_worker.sessions.response import Response, ms
from voxtral_worker.speech.pieces import SpeechFormat


@dataclass(frozen=True)
class Own:
    """What one turn has in place of the session's options and the conversation so far."""

    # None: the session's options.
    config: SessionConfig | None = None
    # The exchanges before the turn. None: the conversation so far.
    history: tuple[Exchange, ...] | None = None
    # Size of `history`, if this turn alone holds it.
    history_bytes: int = 0
    # Whether the answer belongs to the conversation.
    joins: bool = True

    @property
    def bytes(self) -> int:
        """Size of what this turn alone holds."""
        options = self.config.system_prompt if self.config is not None else None
        return bytes_of_text(options) + self.history_bytes


@dataclass
class Turn:
    """What is to be answered and how, with the response being made."""

    # It counts all turns of the session from 1. A turn that is reopened keeps its id.
    turn_id: str
    # The channel that its events go to.
    to: Channel
    # What the user said: the parts that go into the prompt.
    user: UserTurn
    # The response being made. With tools there is one for each round.
    response: Response
    own: Own = Own()
    # How much speech was in it; 0 for a text.
    speech_ms: int = 0
    # Bytes of audio that had come when the turn was over. For a turn that was too long: the
    # bytes up to its cut, because the rest belongs to the next turn.
    audio_bytes: int = 0
    # What the dialect wants back with the turn's events.
    tag: events.Tag = None
    # The history's epoch when the answer began. None: turn and answer do not go into the history.
    epoch: int | None = None
    # Whether the client gets deltas, or the whole text alone.
    streams: bool = True
    # How the answer is spoken; None: it is not.
    speech: SpeechFormat | None = None
    # Room that is set aside for the answer.
    answer_bytes: int = 0
    # Finished rounds of tool calls.
    rounds: tuple[Round, ...] = ()
    # The calls that wait for their results; None: none wait.
    pending: PendingRound | None = None
    # Total time spent waiting for results.
    tool_s: float = 0.0

    @property
    def source(self) -> str:
        """`audio` if any of the user's input is audio, else `text`."""
        has_audio = any(isinstance(part, Audio) for part in self.user.parts)
        return "audio" if has_audio else "text"

    @property
    def bytes(self) -> int:
        """Size of the turn, with the room that is set aside for its answer."""
        rounds = sum(bytes_of_round(made) for made in self.rounds)
        if self.pending is not None:
            rounds += bytes_of_round(self.pending.closed())
        asked = bytes_of_turn(self.user) + self.own.bytes
        return asked + rounds + max(self.answer_bytes, self.response.bytes)

    @property
    def joining(self) -> UserTurn:
        """What the conversation gains of the user's side, together with the answer."""
        # A history of its own is not part of the conversation, and neither is what follows it.
        return self.user if self.own.history is None else UserTurn(())

    def know_words(self, words: str) -> None:
        """Add the transcript of the user's speech."""
        self.user = replace(self.user, heard=words)

    def wait(self, now_s: float, due_s: float | None) -> PendingRound:
        """Make the calls of this response wait for results, until `due_s`."""
        self.pending = PendingRound(self.response.said, self.response.calls, now_s, due_s)
        return self.pending

    def close_round(self, now_s: float, filler: str) -> None:
        """End the wait for results and get ready for the next response, measured from now.

        `filler` becomes the result of each call that has none.
        """
        assert self.pending is not None
        self.rounds = (*self.rounds, self.pending.closed(filler))
        self.tool_s += now_s - self.pending.since_s
        self.pending = None
        generation_id = f"{self.turn_id}-{len(self.rounds)}"
        self.response = Response(generation_id, now_s, now_s, asked_s=now_s)

    def report(self, finished: Finished, now_s: float, *, is_spoken: bool) -> Tell:
        """Send the whole response to the client. `is_spoken`: more of its speech will come."""
        usage, timings = finished.usage, finished.timings
        metrics = {
            "speech_ms": self.speech_ms,
            **self.response.metrics(now_s, usage, timings),
            **({"tool_ms": ms(self.tool_s)} if self.rounds else {}),
        }
        answered = events.Answered(
            self.turn_id,
            self.response.text,
            self.source,
            finished.finish_reason,
            usage,
            metrics,
            self.tag,
            is_spoken,
        )
        return Tell(answered, self.to)
