"""Answers the turns of one conversation, one at a time, in the order in which they ended."""

from collections import deque

from voxtral_worker.engine.conversation import AssistantTurn, Conversation, Exchange, UserTurn
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Sampling,
    Timings,
    Urgency,
    Usage,
)
from voxtral_worker.errors import RateLimited
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Commit, Effect, Generate, Send, Settle
from voxtral_worker.sessions.messages import ErrorMessage, Status, TextDelta, TextResponse
from voxtral_worker.sessions.speculation import Speculation
from voxtral_worker.sessions.turn import Turn

MAX_WAITING = 64


class Answers:
    """A turn waits, is being answered, or is over.

    An answered turn is in the history with exactly the tokens that were delivered.
    """

    def __init__(self, owner: str, config: SessionConfig) -> None:
        self.config = config
        self.history: list[Exchange] = []
        # Audio up to here belongs to turns that are over and answered.
        self.settled_bytes = 0
        self._owner = owner
        self._epoch = 0
        self._waiting: deque[Turn] = deque()
        self._current: Turn | None = None

    @property
    def is_answering(self) -> bool:
        """Whether a response is being made."""
        return self._current is not None

    @property
    def is_idle(self) -> bool:
        """Whether a turn that ends now is answered at once."""
        return self._current is None and not self._waiting

    @property
    def queue_size(self) -> int:
        """Turns waiting or being answered."""
        return len(self._waiting) + (self._current is not None)

    def require_room(self) -> None:
        """Raises RateLimited when too many turns wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise RateLimited(f"{MAX_WAITING} turns wait already", retry_after_s=1.0)

    def add(self, turn: Turn, now_s: float) -> list[Effect]:
        """Answer a turn when those before it are over."""
        try:
            self.require_room()
        except RateLimited as error:
            return [Send(turn.line, ErrorMessage(error, turn.turn_id))]
        self._waiting.append(turn)
        return self._answer_next(now_s)

    def adopt(self, turn: Turn, speculation: Speculation, now_s: float) -> list[Effect]:
        """Answer a turn with what was asked ahead of time; nothing may be waiting."""
        self._begin(turn)
        turn.asked_s, turn.was_asked_ahead = speculation.asked_s, True
        turn.generation_id = speculation.generation_id
        effects: list[Effect] = [Commit(turn.generation_id)]
        for event in speculation.withheld:
            effects += self.on_event(turn.generation_id, event, now_s)
        return effects

    def request(
        self,
        user: UserTurn,
        urgency: Urgency,
        *,
        is_audio: bool,
        config: SessionConfig | None = None,
    ) -> GenerationRequest:
        """What the engine would be asked if a turn were answered now."""
        config = config or self.config
        transcribes = config.mode == "transcribe" and is_audio
        conversation = Conversation(
            user,
            () if transcribes else tuple(self.history),
            config.system_prompt,
            transcribes,
            config.language,
        )
        return GenerationRequest(conversation, _sampling(config, transcribes), urgency, self._owner)

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take what the engine says; a generation that was cancelled says nothing."""
        turn = self._current
        if turn is None or turn.generation_id != generation_id:
            return []
        match event:
            case Delta():
                turn.deliver(event, now_s)
                if not turn.streams:
                    return []
                return [Send(turn.line, TextDelta(event.text, turn.turn_id, turn.request_id))]
            case HistoryTrimmed(exchanges):
                if turn.epoch == self._epoch:
                    del self.history[:exchanges]
                trimmed = Status("history_trimmed", turn.turn_id, {"exchanges": exchanges})
                return [Send(turn.line, trimmed)]
            case Failed(error):
                self._current = None
                self._settle(turn)
                failed = ErrorMessage(error, turn.turn_id, turn.request_id)
                settled = _settled(turn, Timings())
                return [Send(turn.line, failed), *settled, *self._answer_next(now_s)]
        return self._finish(turn, event, now_s)

    def stop(self, status: str, now_s: float) -> list[Effect]:
        """Stop the response being made; the next one begins."""
        turn = self._current
        if turn is None:
            return []
        said = Finished("interrupted", Usage(0, len(turn.token_ids)), Timings())
        stopped = Send(turn.line, Status(status, turn.turn_id))
        return [Cancel(turn.generation_id), stopped, *self._finish(turn, said, now_s)]

    def clear_history(self) -> None:
        """Forget what was said; a response being made is not remembered either."""
        self.history.clear()
        self._epoch += 1

    def give_up(self) -> list[Effect]:
        """Stop all work and forget everything."""
        turn, self._current = self._current, None
        self._waiting.clear()
        self.history.clear()
        return [] if turn is None else [Cancel(turn.generation_id)]

    def _begin(self, turn: Turn) -> None:
        self._current = turn
        turn.epoch = self._epoch
        # Decided once a response: deltas joined are its whole text, or there are none.
        turn.streams = self.config.stream
        turn.records_history = not (self.config.mode == "transcribe" and turn.source == "audio")

    def _answer_next(self, now_s: float) -> list[Effect]:
        if self._current is not None or not self._waiting:
            return []
        turn = self._waiting.popleft()
        self._begin(turn)
        turn.asked_s = now_s
        is_audio = turn.source == "audio"
        request = self.request(turn.user, Urgency.TURN, is_audio=is_audio, config=turn.config)
        return [Generate(turn.generation_id, request)]

    def _finish(self, turn: Turn, finished: Finished, now_s: float) -> list[Effect]:
        self._current = None
        self._settle(turn)
        if turn.records_history and turn.epoch == self._epoch:
            answer = AssistantTurn(tuple(turn.token_ids), words=turn.text)
            self.history.append(Exchange(turn.user, answer))
        usage, timings = finished.usage, finished.timings
        response = TextResponse(
            turn.text,
            turn.turn_id,
            turn.source,
            finished.finish_reason,
            {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cached_tokens": usage.cached_tokens,
            },
            turn.metrics(now_s, usage, timings),
            turn.request_id,
        )
        settled = _settled(turn, timings)
        return [Send(turn.line, response), *settled, *self._answer_next(now_s)]

    def _settle(self, turn: Turn) -> None:
        self.settled_bytes = max(self.settled_bytes, turn.audio_bytes)


def _sampling(config: SessionConfig, transcribes: bool) -> Sampling:
    temperature = config.temperature
    if transcribes and "temperature" not in config.given:
        # The model card: 0.2 to chat, 0 to transcribe.
        temperature = 0.0
    return Sampling(temperature, config.top_p, config.max_length)


def _settled(turn: Turn, timings: Timings) -> list[Effect]:
    if not turn.was_asked_ahead:
        return []
    return [Settle("committed" if turn.is_speculative(timings) else "yielded")]
