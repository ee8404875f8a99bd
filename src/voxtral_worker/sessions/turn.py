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
    """The turns of a session, spoken or not, are counted from 1."""

    def __init__(self) -> None:
        self.given = 0

    def next(self) -> str:
        """The id of one more turn."""
        self.given += 1
        return str(self.given)


@dataclass
class Turn:
    """Times are seconds on one monotonic clock; `decided_s` is when the turn was over.

    `speech_end_s` is when the last of the speech had arrived; a text has no speech, so the
    two are the same. `asked_s` is when the engine was asked, which may be ahead of the end.
    """

    turn_id: str
    # Where it is told of.
    to: Channel
    source: str
    user: UserTurn
    decided_s: float
    speech_end_s: float
    speech_ms: int = 0
    # How much audio had come when the turn was over; of one that was too long, up to its cut.
    audio_bytes: int = 0
    tag: Tag = None
    # Options of this response alone; None: the session's.
    config: SessionConfig | None = None
    # What it is answered after, where that is not the conversation so far.
    history: tuple[Exchange, ...] | None = None
    # What that takes, where nothing else holds it.
    history_bytes: int = 0
    # Whether the answer belongs to the conversation.
    joins: bool = True
    epoch: int = 0
    records_history: bool = True
    streams: bool = True
    # How it is spoken; None: it is not.
    speech: SpeechFormat | None = None
    generation_id: str = ""
    asked_s: float = 0.0
    was_asked_ahead: bool = False
    first_delta_s: float | None = None
    # Room that is set aside for the answer, and what has been delivered of it.
    answer_bytes: int = 0
    delivered_bytes: int = 0
    # Rounds of tools so far, the calls of the response being made, and what waits for results.
    rounds: tuple[Round, ...] = ()
    started: dict[int, CallStarted] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)
    pending: PendingRound | None = None
    # When the results must have come; None: at any time.
    results_due_s: float | None = None
    # How long results were waited for.
    tool_s: float = 0.0
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generation_id = self.generation_id or self.turn_id
        options = self.config.system_prompt if self.config is not None else None
        asked = bytes_of_turn(self.user) + bytes_of_text(options)
        self._asked_bytes = asked + self.history_bytes

    @property
    def bytes(self) -> int:
        """What it takes, and what its answer may take."""
        rounds = sum(bytes_of_round(made) for made in self.rounds)
        if self.pending is not None:
            rounds += bytes_of_round(self.pending.closed())
        return self._asked_bytes + rounds + max(self.answer_bytes, self.delivered_bytes)

    def know_words(self, words: str) -> None:
        """What the user said is known now."""
        self._asked_bytes += bytes_of_text(words) - bytes_of_text(self.user.heard)
        self.user = replace(self.user, heard=words)

    def deliver(self, delta: Delta, now_s: float) -> None:
        """Count a piece of the answer as delivered."""
        if self.first_delta_s is None:
            self.first_delta_s = now_s
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.delivered_bytes += bytes_of_text(delta.text) + TOKEN_ID_BYTES * len(delta.token_ids)

    def wait(self, now_s: float, due_s: float | None) -> PendingRound:
        """Its calls wait for their results from now on."""
        said = AssistantTurn(tuple(self.token_ids), words=self.text)
        self.pending = PendingRound(said, self.calls, now_s)
        self.results_due_s = due_s
        return self.pending

    def close_round(self, now_s: float, filler: str) -> None:
        """The results have come, or never will; what follows is measured from now."""
        assert self.pending is not None
        self.rounds = (*self.rounds, self.pending.closed(filler))
        self.tool_s += now_s - self.pending.since_s
        self.pending = self.results_due_s = self.first_delta_s = None
        self.started, self.calls, self.texts, self.token_ids = {}, [], [], []
        self.decided_s = self.speech_end_s = self.asked_s = now_s
        self.was_asked_ahead, self.delivered_bytes = False, 0
        self.generation_id = f"{self.turn_id}-{len(self.rounds)}"

    @property
    def text(self) -> str:
        """What was delivered so far."""
        return "".join(self.texts)

    def metrics(self, now_s: float, usage: Usage, timings: Timings) -> dict[str, Any]:
        """The stages in ms; queue, encode and prefill add up to `first_token_ms`.

        What was done before the decision takes no time after it.
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
        """Whether the engine had begun before the turn was over."""
        return self.was_asked_ahead and self.asked_s + timings.queue_s <= self.decided_s

    def _since_decision(self, start_s: float, stop_s: float) -> float:
        return max(0.0, stop_s - max(start_s, self.decided_s))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
