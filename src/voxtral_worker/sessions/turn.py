"""A user's turn on its way to an answer, with the latency of each of its stages."""

from dataclasses import dataclass, field
from typing import Any

from voxtral_worker.engine.conversation import UserTurn
from voxtral_worker.engine.request import Delta, Timings, Usage
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import LineName
from voxtral_worker.sessions.messages import RequestId


@dataclass
class Turn:
    """Times are seconds on one monotonic clock; `decided_s` is when the turn was over.

    `speech_end_s` is when the last of the speech had arrived; a text has no speech, so the
    two are the same. `asked_s` is when the engine was asked, which may be ahead of the end.
    """

    turn_id: str
    line: LineName
    source: str
    user: UserTurn
    decided_s: float
    speech_end_s: float
    speech_ms: int = 0
    # How much audio had come when the turn was over.
    audio_bytes: int = 0
    request_id: RequestId | None = None
    # Options of this response alone; None: the session's.
    config: SessionConfig | None = None
    epoch: int = 0
    records_history: bool = True
    streams: bool = True
    generation_id: str = ""
    asked_s: float = 0.0
    was_asked_ahead: bool = False
    first_delta_s: float | None = None
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generation_id = self.generation_id or self.turn_id

    def deliver(self, delta: Delta, now_s: float) -> None:
        """Count a piece of the answer as delivered."""
        if self.first_delta_s is None:
            self.first_delta_s = now_s
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)

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
        }

    def is_speculative(self, timings: Timings) -> bool:
        """Whether the engine had begun before the turn was over."""
        return self.was_asked_ahead and self.asked_s + timings.queue_s <= self.decided_s

    def _since_decision(self, start_s: float, stop_s: float) -> float:
        return max(0.0, stop_s - max(start_s, self.decided_s))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
