"""One response of the engine to a turn, with the times that the stages of its making took."""

from dataclasses import dataclass, field
from typing import Any

from voxtral_worker.engine.conversation import AssistantTurn
from voxtral_worker.engine.request import CallFinished, CallStarted, Delta, Timings, Usage
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.sessions.memory import TOKEN_ID_BYTES, bytes_of_text


@dataclass
class Response:
    """What was delivered of one response. A turn with tools gets one for each of its rounds.

    All times are seconds on one monotonic clock.
    """

    # The engine's name for it. Each response of a turn has another, so that late events of the
    # last one are ignored.
    generation_id: str
    # When the turn was over, or the last round of its tools.
    decided_s: float
    # When the last of the speech had arrived. A text has no speech: it equals `decided_s`.
    speech_end_s: float
    # When the engine was asked. This may be before `decided_s`: see `speculator.py`.
    asked_s: float = 0.0
    # Whether the engine was asked in a pause that became the end of the turn.
    was_asked_ahead: bool = False
    # None: no text has come yet.
    first_delta_s: float | None = None
    # The pieces of text, and all their tokens.
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    # Size of the texts and the tokens.
    bytes: int = 0
    # Calls of tools: begun ones by index, and complete ones in order.
    started: dict[int, CallStarted] = field(default_factory=dict)
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)

    @property
    def said(self) -> AssistantTurn:
        """The text and the tokens so far, as they go into the next prompt."""
        return AssistantTurn(tuple(self.token_ids), words=self.text)

    def deliver(self, delta: Delta, now_s: float) -> None:
        """Add a piece of text."""
        if self.first_delta_s is None:
            self.first_delta_s = now_s
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.bytes += bytes_of_text(delta.text) + TOKEN_ID_BYTES * len(delta.token_ids)

    def begin_call(self, call: CallStarted) -> None:
        """Take the name of a tool that is being called; its arguments follow."""
        self.started[call.index] = call

    def end_call(self, call: CallFinished) -> None:
        """Take the arguments of a call, which are now complete."""
        started = self.started[call.index]
        self.calls.append(ToolCall(started.call_id, started.name, call.arguments))

    def is_speculative(self, timings: Timings) -> bool:
        """Whether the engine had begun it before the turn was over."""
        return self.was_asked_ahead and self.asked_s + timings.queue_s <= self.decided_s

    def metrics(self, now_s: float, usage: Usage, timings: Timings) -> dict[str, Any]:
        """The stages in ms; queue, encode and prefill add up to `first_token_ms`.

        They measure what the user waits for, so they count from the end of the turn: work that
        was done ahead of it counts as 0 ms.
        """
        first_s = now_s if self.first_delta_s is None else self.first_delta_s
        first_token_ms = ms(first_s - self.decided_s)
        admitted_s = self.asked_s + timings.queue_s
        encoded_s = admitted_s + timings.encode_s
        encode_ms = ms(self._since_decision(admitted_s, encoded_s))
        prefill_ms = ms(self._since_decision(encoded_s, encoded_s + timings.prefill_s))
        return {
            "endpoint_ms": ms(self.decided_s - self.speech_end_s),
            "queue_ms": round(max(0.0, first_token_ms - encode_ms - prefill_ms), 3),
            "encode_ms": encode_ms,
            "prefill_ms": prefill_ms,
            "first_token_ms": first_token_ms,
            "total_ms": ms(now_s - self.speech_end_s),
            "tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "speculative": self.is_speculative(timings),
        }

    def _since_decision(self, start_s: float, stop_s: float) -> float:
        return max(0.0, stop_s - max(start_s, self.decided_s))


def ms(seconds: float) -> float:
    """Milliseconds, as the metrics of a turn report them."""
    return round(seconds * 1000, 3)
