"""One conversation: hears frames and messages, says what is to be sent and generated.

Pure: it is told the time, holds no connection, and every method returns effects in the
order in which they are to be performed.

    frame ──▶ turn detector ──▶ turn ──▶ queue ──▶ Generate ──▶ engine
                    │                                              │
                    ├─ a pause: Generate ahead, withheld           │
                    └─ speech during a response: Cancel            │
    socket ◀── Send(text_delta, text_response) ◀── history ◀── events
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, UserTurn
from voxtral_worker.engine.request import GenerationEvent
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.sessions.ahead import AskingAhead
from voxtral_worker.sessions.answering import Answers
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Effect, LineName, Send
from voxtral_worker.sessions.heard_frames import HeardFrames
from voxtral_worker.sessions.line import Line
from voxtral_worker.sessions.messages import ErrorMessage, Heard, Status, TextInput, asked_as
from voxtral_worker.sessions.partials import Partials
from voxtral_worker.sessions.record import SessionRecord
from voxtral_worker.sessions.turn import Turn
from voxtral_worker.sessions.unanswered import Unanswered
from voxtral_worker.turns.detector import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnDetector,
    TurnEnded,
    TurnEvent,
)

FRAME_MS = 32
# Ids of turns that a worker may have given away since it last told the store.
TURNS_UNTOLD = 100


class Session:
    """At most one turn is open; at most one generation is asked for ahead of its end."""

    def __init__(
        self,
        session_id: str,
        config: SessionConfig,
        now_s: float,
        max_turn_s: float = 300.0,
        *,
        speculates: bool = False,
    ) -> None:
        self.session_id = session_id
        self.created_s = now_s
        self.last_activity_s = now_s
        self.message_count = 0
        self.error_count = 0
        self.audio_bytes_received = 0
        self.lines = {name: Line() for name in LineName}
        self._detector = TurnDetector(max_turn_frames=int(max_turn_s * 1000 / FRAME_MS))
        self._heard = HeardFrames()
        self._turns = 0
        self._open_turn_id: str | None = None
        self._unanswered = Unanswered()
        self._answers = Answers(session_id, config)
        self._partials = Partials()
        self._ahead = AskingAhead(self._answers, self._unanswered, self._heard, is_on=speculates)
        self.use_config(config)

    @property
    def config(self) -> SessionConfig:
        """The options in force."""
        return self._answers.config

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
        return self._answers.queue_size

    @property
    def unanswered(self) -> int:
        """Lots of what the user said that nobody was to answer yet."""
        return len(self._unanswered)

    @property
    def history(self) -> tuple[Exchange, ...]:
        """What was said so far, as it goes into the next prompt."""
        return tuple(self._answers.history)

    # Moving to another worker.

    def record(self) -> SessionRecord:
        """What another worker would go on from."""
        if not self.has_open_turn and not self.queue_size:
            self._answers.settled_bytes = self.audio_bytes_received
        return SessionRecord(
            self.config,
            self.history,
            self._turns,
            {name.value: line.seq for name, line in self.lines.items()},
            self._answers.settled_bytes,
            self.message_count,
            self.error_count,
        )

    def go_on_from(self, record: SessionRecord) -> None:
        """Take over what another worker has recorded; this session must be new."""
        self._answers.history.extend(record.history)
        self._answers.settled_bytes = self.audio_bytes_received = record.audio_bytes
        self._turns = record.turns + TURNS_UNTOLD
        self.lines = {name: Line(record.seqs.get(name.value, 0)) for name in LineName}
        self.message_count = record.message_count
        self.error_count = record.error_count

    # Listening.

    def hear(
        self, frames: NDArray[np.float32], probabilities: Iterable[float], now_s: float
    ) -> list[Effect]:
        """Take frames, float32 [k, 512], each with its speech probability."""
        effects: list[Effect] = []
        for frame, probability in zip(frames, probabilities, strict=True):
            self._heard.add(frame, now_s)
            for event in self._detector.hear(float(probability)):
                effects += self._on_turn_event(event, now_s)
            heard = self._detector.frames_heard
            effects += self._ahead.look_at_pause(self._open_turn_id, heard, now_s)
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
                return self._start_turn(event, now_s)
            case SpeechPaused():
                self._ahead.begin_pause(event)
                return []
            case SpeechResumed():
                return self._ahead.end_pause(self._detector.frames_heard)
        return self._end_turn(event, now_s)

    def _start_turn(self, started: SpeechStarted, now_s: float) -> list[Effect]:
        effects = self._answers.stop("interrupted", now_s) if self.config.barge_in else []
        self._open_turn_id = self._new_turn_id()
        self._partials.begin_turn(self._open_turn_id, self._detector.frames_heard)
        heard = Heard(started.first_frame * FRAME_MS)
        status = Status("speech_started", self._open_turn_id, heard=heard)
        return [*effects, Send(LineName.AUDIO, status)]

    def _end_turn(self, ended: TurnEnded, now_s: float) -> list[Effect]:
        effects = self._partials.drop()
        if self._open_turn_id is None:
            return [*effects, Send(LineName.AUDIO, Status("no_speech", self._new_turn_id()))]
        turn_id, self._open_turn_id = self._open_turn_id, None
        wasted, speculation = self._ahead.end_turn(ended)
        effects += wasted
        if speculation is None:
            audio = Audio(self._heard.samples(ended.first_frame, ended.end_frame))
            user = self._unanswered.with_audio(audio)
        else:
            user = speculation.request.conversation.user
        user = dataclasses.replace(user, heard=self._partials.text)
        effects.append(Send(LineName.AUDIO, _speech_ended(turn_id, ended, user)))
        if not self.config.answers_turns:
            self._unanswered.add(turn_id, user.parts[-1:])
            return effects
        self._unanswered.clear()
        effects.append(Send(LineName.AUDIO, Status("processing", turn_id)))
        turn = Turn(
            turn_id,
            LineName.AUDIO,
            "audio",
            user,
            decided_s=now_s,
            speech_end_s=self._heard.heard_s(ended.last_speech_frame),
            speech_ms=ended.speech_frames * FRAME_MS,
            audio_bytes=self.audio_bytes_received,
        )
        if speculation is None:
            return effects + self._answers.add(turn, now_s)
        return effects + self._answers.adopt(turn, speculation, now_s)

    def _forget_heard(self) -> None:
        self._heard.forget_before(self._detector.oldest_needed_frame)

    def _look_at_partial(self) -> list[Effect]:
        frame = self._detector.frames_heard
        if not (self.config.interim and self._open_turn_id and self._partials.is_due(frame)):
            return []
        samples = self._heard.samples(self._detector.oldest_needed_frame, frame)
        return self._partials.ask(Audio(samples), self.config, frame)

    # Answering.

    def text(self, line: LineName, message: TextInput, now_s: float) -> list[Effect]:
        """Answer a text on the line it came by. Raises RateLimited when too many wait."""
        with asked_as(message.request_id):
            self._answers.require_room()
        turn = Turn(
            self._new_turn_id(),
            line,
            "text",
            UserTurn((message.text,)),
            decided_s=now_s,
            speech_end_s=now_s,
            request_id=message.request_id,
        )
        asked = {} if message.request_id is None else {"request_id": message.request_id}
        processing = Send(line, Status("processing", turn.turn_id, asked))
        # A turn that is still open is answered after this text.
        return [*self._ahead.discard(), processing, *self._answers.add(turn, now_s)]

    def say(self, key: str, parts: tuple[str | Audio, ...]) -> list[Effect]:
        """Take something of the user's that is answered with what comes after it."""
        self._unanswered.add(key, parts)
        return self._ahead.discard()

    def unsay(self, key: str) -> list[Effect] | None:
        """Take it back; None when it was answered, or never said."""
        return self._ahead.discard() if self._unanswered.remove(key) else None

    def respond(
        self, line: LineName, now_s: float, config: SessionConfig | None = None
    ) -> list[Effect]:
        """Answer what was said and not answered, with options of this response alone.

        Raises BadInput when there is nothing, RateLimited when too many turns wait.
        """
        user = self._unanswered.as_turn()
        if not user.parts:
            raise BadInput("there is nothing to answer: the user has said nothing new")
        self._answers.require_room()
        self._unanswered.clear()
        has_audio = any(isinstance(part, Audio) for part in user.parts)
        turn = Turn(
            self._new_turn_id(),
            line,
            "audio" if has_audio else "text",
            user,
            decided_s=now_s,
            speech_end_s=now_s,
            config=config,
        )
        processing = Send(line, Status("processing", turn.turn_id))
        return [*self._ahead.discard(), processing, *self._answers.add(turn, now_s)]

    def remember(self, text: str) -> list[Effect]:
        """Take what was said and not answered as answered with a text from outside.

        Raises BadInput when there is nothing, or a response is still being made.
        """
        user = self._unanswered.as_turn()
        if not user.parts or not self._answers.is_idle:
            raise BadInput("an answer must follow something of the user's that has none yet")
        self._unanswered.clear()
        self._answers.history.append(Exchange(user, AssistantTurn(text=text)))
        return self._ahead.discard()

    def forget_open_turn(self) -> list[Effect]:
        """What is being said now counts as not said."""
        self._detector.end_turn()
        self._open_turn_id = None
        self._forget_heard()
        return [*self._partials.drop(), *self._ahead.forget_turn()]

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take what the engine says of a generation; one that was cancelled says nothing."""
        if generation_id == self._partials.generation_id:
            return self._partials.on_event(event)
        settled = self._ahead.on_event(generation_id, event)
        if settled is not None:
            return settled
        return self._answers.on_event(generation_id, event, now_s)

    def cancel(self, line: LineName, now_s: float) -> list[Effect]:
        """Stop the response being made."""
        if not self._answers.is_answering:
            return [Send(line, Status("cancelled", extra={"turn_id": None}))]
        return self._answers.stop("cancelled", now_s)

    def clear_history(self, line: LineName) -> list[Effect]:
        """Forget what was said; a response being made is not remembered either."""
        self._answers.clear_history()
        return [*self._ahead.drop_stale(), Send(line, Status("history_cleared"))]

    def update_config(self, line: LineName, changes: object) -> list[Effect]:
        """Change options, all or none. Raises BadInput that names the bad one."""
        effects = self.use_config(self.config.updated(changes))
        config = {"config": self.config.as_dict()}
        return [*effects, Send(line, Status("config_updated", extra=config))]

    def use_config(self, config: SessionConfig) -> list[Effect]:
        """Change all options at once; nobody is told."""
        self._answers.config = config
        self._detector.reconfigure(
            config.vad_sensitivity, config.silence_ms, config.threshold, config.pre_roll_ms
        )
        return self._ahead.drop_stale()

    def refuse(self, line: LineName, error: WorkerError) -> list[Effect]:
        """Tell a client that something it sent was not taken."""
        return [Send(line, ErrorMessage(error, request_id=error.request_id))]

    def give_up(self) -> list[Effect]:
        """Stop all work, at the end of the session; its memory is wiped."""
        effects = [
            *self._partials.drop(),
            *self._ahead.forget_turn(),
            *self._answers.give_up(),
        ]
        self._heard.clear()
        self._unanswered.clear()
        # A turn that is still open has no audio left to end with.
        self._detector.end_turn()
        self._open_turn_id = None
        return effects

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


def _speech_ended(turn_id: str, ended: TurnEnded, user: UserTurn) -> Status:
    reason = {"reason": ended.reason} if ended.reason == "too_long" else {}
    (audio,) = (part for part in user.parts[-1:] if isinstance(part, Audio))
    heard = Heard(ended.first_frame * FRAME_MS, ended.end_frame * FRAME_MS, audio)
    return Status("speech_ended", turn_id, reason, heard)
