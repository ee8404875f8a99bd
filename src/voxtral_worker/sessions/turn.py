"""A user's turn on its way to an answer, with the latency of each of its stages."""

from dataclasses import dataclass, field, replace
from typing import Any

from voxtral_worker.engine.conversation import AssistantTurn, Exchange, Round, UserTurn
from voxtral_worker.engine.request import CallStarted, Delta, Timings, Usage
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.sessions.calling import PendingRound
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel
from voxtral_worker.sessions.events import Tag
from voxtral_worker.sessions.memory import (
    TOKEN_ID_BYTES,
    bytes_of_round,
    bytes_of_text,
    bytes_of_turn,
)
from voxtral_worker.speech.pieces import SpeechFormat


class TurnIds:
    """Numbers the turns of a session, spoken or not, from 1."""

    def __init__(self) -> None:
        self.given = 0

    def next(self) -> str:
        """A new id."""
        self.given += 1
        return str(self.given)


@dataclass
class Turn:
    """The request, the response so far, and the times of one turn.

    All times are seconds on one monotonic clock.
    """

    turn_id: str
    # The channel that its events go to.
    to: Channel
    # `audio` or `text`.
    source: str
    # What the user said: the parts that go into the prompt.
    user: UserTurn
    # When the turn was over.
    decided_s: float
    # When the last of the speech had arrived. A text has no speech: it equals `decided_s`.
    speech_end_s: float
    speech_ms: int = 0
    # Bytes of audio that had come when the turn was over. For a turn that was too long: the
    # bytes up to its cut, because the rest belongs to the next turn.
    audio_bytes: int = 0
    # What the dialect wants back with the turn's events.
    tag: Tag = None
    # Options of this response alone; None: the session's.
    config: SessionConfig | None = None
    # The exchanges before this turn, in place of the conversation so far.
    history: tuple[Exchange, ...] | None = None
    # Size of `history`, which this turn alone holds.
    history_bytes: int = 0
    # Whether the answer belongs to the conversation.
    joins: bool = True
    # How often the history had been cleared when the answer began.
    epoch: int = 0
    # Whether turn and answer go into the history.
    records_history: bool = True
    # Whether the client gets deltas, or the whole text alone.
    streams: bool = True
    # How the answer is spoken; None: it is not.
    speech: SpeechFormat | None = None
    # The engine's name for the response being made. It changes with each round of tool calls.
    generation_id: str = ""
    # When the engine was asked. This may be before `decided_s`: see `speculator.py`.
    asked_s: float = 0.0
    was_asked_ahead: bool = False
    first_delta_s: float | None = None
    # Room that is set aside for the answer, and how much of it is delivered.
    answer_bytes: int = 0
    delivered_bytes: int = 0
    # Finished rounds of tool calls.
    rounds: tuple[Round, ...] = ()
    # Calls of the response being made: begun ones by index, and complete ones in order.
    started: dict[int, CallStarted] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    # The calls that wait for their results; None: none wait.
    pending: PendingRound | None = None
    # When the results must have come; None: they may take any time.
    results_due_s: float | None = None
    # Total time spent waiting for results.
    tool_s: float = 0.0
    # What was delivered of the response being made.
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generation_id = self.generation_id or self.turn_id
        options = self.config.system_prompt if self.config is not None else None
        asked = bytes_of_turn(self.user) + bytes_of_text(options)
        self._asked_bytes = asked + self.history_bytes

    @property
    def bytes(self) -> int:
        """Size of the turn, with the room that is set aside for its answer."""
        rounds = sum(bytes_of_round(made) for made in self.rounds)
        if self.pending is not None:
            rounds += bytes_of_round(self.pending.closed())
        return self._asked_bytes + rounds + max(self.answer_bytes, self.delivered_bytes)

    def know_words(self, words: str) -> None:
        """Add the transcript of the user's speech."""
        self._asked_bytes += bytes_of_text(words) - bytes_of_text(self.user.heard)
        self.user = replace(self.user, heard=words)

    def deliver(self, delta: Delta, now_s: float) -> None:
        """Add a piece to what was delivered of the answer."""
        if self.first_delta_s is None:
            self.first_delta_s = now_s
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.delivered_bytes += bytes_of_text(delta.text) + TOKEN_ID_BYTES * len(delta.token_ids)

    def wait(self, now_s: float, due_s: float | None) -> PendingRound:
        """Make the calls of this response wait for results, until `due_s`."""
        said = AssistantTurn(tuple(self.token_ids), words=self.text)
        self.pending = PendingRound(said, self.calls, now_s)
        self.results_due_s = due_s
        return self.pending

    def close_round(self, now_s: float, filler: str) -> None:
        """End the wait for results and get ready for the next response, measured from now.

        `filler` becomes the result of each call that has none.
        """
        assert self.pending is not None
        self.rounds = (*self.rounds, self.pending.closed(filler))
        self.tool_s += now_s - self.pending.since_s
        self.pending = self.results_due_s = self.first_delta_s = None
        self.started, self.calls, self.texts, self.token_ids = {}, [], [], []
        self.decided_s = self.speech_end_s = self.asked_s = now_s
        self.was_asked_ahead, self.delivered_bytes = False, 0
        # Another id for each round, so that late events of the last one are ignored.
        self.generation_id = f"{self.turn_id}-{len(self.rounds)}"

    @property
    def text(self) -> str:
        """The text that was delivered so far."""
        return "".join(self.texts)

    def metrics(self, now_s: float, usage: Usage, timings: Timings) -> dict[str, Any]:
        """The stages in ms; queue, encode and prefill add up to `first_token_ms`.

        They measure what the user waits for, so they count from the end of the turn: work that
        was done ahead of it counts as 0 ms.
        """
        first_s = now_s if self.first_delta_s is None else self.first_delta_s
        first_token_ms = _ms(first_s - self.decided_s)
        admitted_s = self.asked_s + timings.queue_s
        encoded_s = admitted_s + timings.encode_s
        encode_ms = _ms(self._since_decision(admitted_s, encoded_s))
        prefill_ms = _ms(self._since_decision(encoded_s, encoded_s + timings.prefill_s))
        return {
            "speech_ms": self.speech_ms,
            "endpoint_ms": _ms(self.decided_s - self.speech_end_s),
            "queue_ms": round(max(0.0, first_token_ms - encode_ms - prefill_ms), 3),
            "encode_ms": encode_ms,
            "prefill_ms": prefill_ms,
            "first_token_ms": first_token_ms,
            "total_ms": _ms(now_s - self.speech_end_s),
            "tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "speculative": self.is_speculative(timings),
            **({"tool_ms": _ms(self.tool_s)} if self.rounds else {}),
        }

    def is_speculative(self, timings: Timings) -> bool:
        """Whether the engine had begun to answer before the turn was over."""
        return self.was_asked_ahead and self.asked_s + timings.queue_s <= self.decided_s

    def _since_decision(self, start_s: float, stop_s: float) -> float:
        return max(0.0, stop_s - max(start_s, self.decided_s))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
