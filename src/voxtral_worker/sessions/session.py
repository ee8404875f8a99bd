"""One conversation: hears frames and messages, says what is to be sent and generated.

Pure: it is told the time, holds no connection, and every method returns effects in the
order in which they are to be performed.

    frame ──▶ turn detector ──▶ turn ──▶ queue ──▶ Generate ──▶ engine
                    │                                              │
                    └─ speech during a response: Cancel            │
    socket ◀── Send(text_delta, text_response) ◀── history ◀── events
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
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
from voxtral_worker.errors import RateLimited, WorkerError
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Cancel, Effect, Generate, LineName, Send
from voxtral_worker.sessions.line import Line
from voxtral_worker.sessions.messages import (
    ErrorMessage,
    Status,
    TextDelta,
    TextInput,
    TextResponse,
    TranscriptPartial,
)
from voxtral_worker.sessions.partials import StablePrefix
from voxtral_worker.sessions.turn import Turn
from voxtral_worker.turns.detector import (
    SpeechStarted,
    TurnDetector,
    TurnEnded,
    TurnEvent,
)

FRAME_MS = 32
MAX_WAITING = 64
# A transcript of what is being said is worth a look once a second.
PARTIAL_EVERY_FRAMES = 31
PARTIAL = "partial"


class Session:
    """Turns are answered one at a time, in the order in which they ended.

    A turn is open (being spoken), waiting, being answered, or over; an answered turn is in
    the history with exactly the tokens that were delivered.
    """

    def __init__(
        self, session_id: str, config: SessionConfig, now_s: float, max_turn_s: float = 300.0
    ) -> None:
        self.session_id = session_id
        self.config = config
        self.created_s = now_s
        self.last_activity_s = now_s
        self.message_count = 0
        self.error_count = 0
        self.audio_bytes_received = 0
        self.lines = {name: Line() for name in LineName}
        self._detector = TurnDetector(
            config.vad_sensitivity, config.silence_ms, int(max_turn_s * 1000 / FRAME_MS)
        )
        self._heard: deque[tuple[NDArray[np.float32], float]] = deque()
        self._heard_from = 0
        self._history: list[Exchange] = []
        self._epoch = 0
        self._turns = 0
        self._open_turn_id: str | None = None
        self._waiting: deque[Turn] = deque()
        self._answering: Turn | None = None
        self._partials = StablePrefix()
        self._partial_id: str | None = None
        self._partial_text: list[str] = []
        self._partial_due_frame = 0

    @property
    def has_open_turn(self) -> bool:
        """Whether somebody is speaking, or in a pause that may go on."""
        return self._detector.is_open

    @property
    def stall_s(self) -> float:
        """How long an open turn waits for audio before it counts as ended."""
        return (self.config.silence_ms + 250) / 1000

    @property
    def queue_size(self) -> int:
        """Turns and texts waiting or being answered."""
        return len(self._waiting) + (self._answering is not None)

    @property
    def history(self) -> tuple[Exchange, ...]:
        """What was said so far, as it goes into the next prompt."""
        return tuple(self._history)

    # Listening.

    def hear(
        self, frames: NDArray[np.float32], probabilities: Iterable[float], now_s: float
    ) -> list[Effect]:
        """Take frames, float32 [k, 512], each with its speech probability."""
        effects: list[Effect] = []
        for frame, probability in zip(frames, probabilities, strict=True):
            self._heard.append((frame, now_s))
            for event in self._detector.hear(float(probability)):
                effects += self._on_turn_event(event, now_s)
        effects += self._look_at_partial()
        self._forget_heard()
        return effects

    def end_turn(self, line: LineName, now_s: float) -> list[Effect]:
        """The user's turn is over now, whatever the VAD says."""
        events = self._detector.end_turn()
        if not events:
            return [Send(line, Status("no_speech"))]
        return self._on_turn_events(events, now_s)

    def stall(self, now_s: float) -> list[Effect]:
        """The stream of audio has paused for too long: a pause counts as silence."""
        return self._on_turn_events(self._detector.end_turn("stalled"), now_s)

    def _on_turn_events(self, events: Iterable[TurnEvent], now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for event in events:
            effects += self._on_turn_event(event, now_s)
        self._forget_heard()
        return effects

    def _on_turn_event(self, event: TurnEvent, now_s: float) -> list[Effect]:
        match event:
            case SpeechStarted():
                return self._start_turn(now_s)
            case TurnEnded():
                return self._end_turn(event, now_s)
        return []

    def _start_turn(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.config.barge_in and self._answering is not None:
            effects = self._stop_answering("interrupted", now_s)
        self._open_turn_id = self._new_turn_id()
        self._partials = StablePrefix()
        self._partial_due_frame = self._detector.frames_heard + PARTIAL_EVERY_FRAMES
        return [*effects, self._say(Status("speech_started", self._open_turn_id))]

    def _end_turn(self, ended: TurnEnded, now_s: float) -> list[Effect]:
        effects = self._drop_partial()
        if self._open_turn_id is None:
            return [*effects, self._say(Status("no_speech", self._new_turn_id()))]
        turn_id, self._open_turn_id = self._open_turn_id, None
        reason = {"reason": ended.reason} if ended.reason == "too_long" else {}
        effects.append(self._say(Status("speech_ended", turn_id, reason)))
        effects.append(self._say(Status("processing", turn_id)))
        samples = self._samples(ended.first_frame, ended.end_frame)
        turn = Turn(
            turn_id,
            LineName.AUDIO,
            "audio",
            UserTurn((Audio(samples),)),
            decided_s=now_s,
            speech_end_s=self._heard[ended.last_speech_frame - self._heard_from][1],
            speech_ms=ended.speech_frames * FRAME_MS,
        )
        return effects + self._enqueue(turn, now_s)

    def _samples(self, first_frame: int, end_frame: int) -> NDArray[np.float32]:
        start = first_frame - self._heard_from
        stop = end_frame - self._heard_from
        return np.concatenate([self._heard[i][0] for i in range(start, stop)])

    def _forget_heard(self) -> None:
        while self._heard and self._heard_from < self._detector.oldest_needed_frame:
            self._heard.popleft()
            self._heard_from += 1

    # Answering.

    def text(self, line: LineName, message: TextInput, now_s: float) -> list[Effect]:
        """Answer a text on the line it came by. Raises RateLimited when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise RateLimited(f"{MAX_WAITING} turns wait already", retry_after_s=1.0)
        turn_id = self._new_turn_id()
        turn = Turn(
            turn_id,
            line,
            "text",
            UserTurn((message.text,)),
            decided_s=now_s,
            speech_end_s=now_s,
            request_id=message.request_id,
        )
        return [Send(line, Status("processing", turn_id)), *self._enqueue(turn, now_s)]

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take what the engine says of a generation; one that was cancelled says nothing."""
        if generation_id == self._partial_id:
            return self._on_partial(event)
        turn = self._answering
        if turn is None or turn.turn_id != generation_id:
            return []
        match event:
            case Delta():
                turn.deliver(event, now_s)
                if not turn.streams:
                    return []
                return [Send(turn.line, TextDelta(event.text, turn.turn_id, turn.request_id))]
            case HistoryTrimmed(exchanges):
                if turn.epoch == self._epoch:
                    del self._history[:exchanges]
                trimmed = Status("history_trimmed", turn.turn_id, {"exchanges": exchanges})
                return [Send(turn.line, trimmed)]
            case Failed(error):
                self._answering = None
                failed = ErrorMessage(error, turn.turn_id, turn.request_id)
                return [Send(turn.line, failed), *self._answer_next(now_s)]
        return self._finish(event.finish_reason, event.usage, event.timings, now_s)

    def cancel(self, line: LineName, now_s: float) -> list[Effect]:
        """Stop the response being made."""
        if self._answering is None:
            return [Send(line, Status("cancelled", extra={"turn_id": None}))]
        return self._stop_answering("cancelled", now_s)

    def clear_history(self, line: LineName) -> list[Effect]:
        """Forget what was said; a response being made is not remembered either."""
        self._history.clear()
        self._epoch += 1
        return [Send(line, Status("history_cleared"))]

    def update_config(self, line: LineName, changes: object) -> list[Effect]:
        """Change options, all or none. Raises BadInput that names the bad one."""
        self.config = self.config.updated(changes)
        self._detector.reconfigure(self.config.vad_sensitivity, self.config.silence_ms)
        return [Send(line, Status("config_updated", extra={"config": self.config.as_dict()}))]

    def refuse(self, line: LineName, error: WorkerError) -> list[Effect]:
        """Tell a client that something it sent was not taken."""
        return [Send(line, ErrorMessage(error))]

    def give_up(self) -> list[Effect]:
        """Stop all work, at the end of the session; its memory is wiped."""
        effects = self._drop_partial()
        if self._answering is not None:
            effects.append(Cancel(self._answering.turn_id))
        self._answering = None
        self._waiting.clear()
        self._history.clear()
        self._heard.clear()
        # A turn that is still open has no audio left to end with.
        self._detector.end_turn()
        self._open_turn_id = None
        return effects

    def _enqueue(self, turn: Turn, now_s: float) -> list[Effect]:
        if len(self._waiting) >= MAX_WAITING:
            error = RateLimited(f"{MAX_WAITING} turns wait already", retry_after_s=1.0)
            return [Send(turn.line, ErrorMessage(error, turn.turn_id))]
        self._waiting.append(turn)
        return self._answer_next(now_s)

    def _answer_next(self, now_s: float) -> list[Effect]:
        if self._answering is not None or not self._waiting:
            return []
        turn = self._answering = self._waiting.popleft()
        turn.epoch = self._epoch
        # Decided once a response: deltas joined are its whole text, or there are none.
        turn.streams = self.config.stream
        transcribes = self.config.mode == "transcribe" and turn.source == "audio"
        turn.records_history = not transcribes
        conversation = Conversation(
            turn.user,
            () if transcribes else tuple(self._history),
            self.config.system_prompt,
            transcribes,
            self.config.language,
        )
        request = GenerationRequest(
            conversation, self._sampling(transcribes), Urgency.TURN, self.session_id
        )
        return [Generate(turn.turn_id, request)]

    def _sampling(self, transcribes: bool) -> Sampling:
        temperature = self.config.temperature
        if transcribes and "temperature" not in self.config.given:
            # The model card: 0.2 to chat, 0 to transcribe.
            temperature = 0.0
        return Sampling(temperature, self.config.top_p, self.config.max_length)

    def _stop_answering(self, status: str, now_s: float) -> list[Effect]:
        turn = self._answering
        assert turn is not None
        said = self._finish("interrupted", Usage(0, len(turn.token_ids)), Timings(), now_s)
        stopped = Send(turn.line, Status(status, turn.turn_id))
        return [Cancel(turn.turn_id), stopped, *said]

    def _finish(
        self, finish_reason: str, usage: Usage, timings: Timings, now_s: float
    ) -> list[Effect]:
        turn, self._answering = self._answering, None
        assert turn is not None
        if turn.records_history and turn.epoch == self._epoch:
            answer = AssistantTurn(tuple(turn.token_ids))
            self._history.append(Exchange(turn.user, answer))
        response = TextResponse(
            turn.text,
            turn.turn_id,
            turn.source,
            finish_reason,
            {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cached_tokens": usage.cached_tokens,
            },
            turn.metrics(now_s, usage, timings),
            turn.request_id,
        )
        return [Send(turn.line, response), *self._answer_next(now_s)]

    # Partial transcripts.

    def _look_at_partial(self) -> list[Effect]:
        is_due = self._detector.frames_heard >= self._partial_due_frame
        if not (self.config.interim and is_due and self._open_turn_id and not self._partial_id):
            return []
        self._partial_due_frame = self._detector.frames_heard + PARTIAL_EVERY_FRAMES
        self._partial_id = f"{PARTIAL}-{self._open_turn_id}-{self._detector.frames_heard}"
        self._partial_text = []
        first = self._detector.oldest_needed_frame
        samples = self._samples(first, self._detector.frames_heard)
        conversation = Conversation(
            UserTurn((Audio(samples),)), transcribe=True, language=self.config.language
        )
        sampling = Sampling(0.0, 1.0, self.config.max_length)
        request = GenerationRequest(conversation, sampling, Urgency.PARTIAL)
        return [Generate(self._partial_id, request)]

    def _on_partial(self, event: GenerationEvent) -> list[Effect]:
        match event:
            case Delta():
                self._partial_text.append(event.text)
            case Finished():
                self._partial_id = None
                # The end of a turn cancels its partial, so the turn is open here.
                assert self._open_turn_id is not None
                text, stable = self._partials.update("".join(self._partial_text))
                return [self._say(TranscriptPartial(text, stable, self._open_turn_id))]
            case Failed():
                # The next one is a second away, and the turn itself is told if it fails.
                self._partial_id = None
        return []

    def _drop_partial(self) -> list[Effect]:
        if self._partial_id is None:
            return []
        partial_id, self._partial_id = self._partial_id, None
        return [Cancel(partial_id)]

    def _say(self, message: Status | TranscriptPartial) -> Send:
        return Send(LineName.AUDIO, message)

    def _new_turn_id(self) -> str:
        self._turns += 1
        return str(self._turns)

    def stats(self) -> dict[str, Any]:
        """The counts of the documented statistics."""
        return {
            "message_count": self.message_count,
            "error_count": self.error_count,
            "queue_size": self.queue_size,
        }
