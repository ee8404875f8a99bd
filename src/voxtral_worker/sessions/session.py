"""One conversation: hears frames and texts, says what has happened and what is to be generated.

Pure: it is told the time, holds no connection, knows no wire, and every method returns effects
in the order in which they are to be performed.

    frame ──▶ turn detector ──▶ turn ──▶ queue ──▶ Generate ──▶ engine
                    │                                              │
                    ├─ a pause: Generate ahead, withheld           │
                    └─ speech during a response: Cancel            │
    dialect ◀── Tell(Delta, Answered) ◀── history ◀── events
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, Round, UserTurn
from voxtral_worker.engine.request import GenerationEvent
from voxtral_worker.engine.tools import ToolCall, known_call_id
from voxtral_worker.errors import BadInput, WorkerError
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.calling import OpenExchange, PendingRound
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, CountCalls, Effect, Tell
from voxtral_worker.sessions.listening import Listening
from voxtral_worker.sessions.memory import (
    LONGEST_ANSWER_BYTES,
    MAX_BYTES,
    SessionMemory,
    bytes_of_exchange,
    bytes_of_parts,
    bytes_of_round,
    bytes_of_text,
    bytes_of_turn,
)
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.record import SessionRecord
from voxtral_worker.sessions.speaking import Speaking
from voxtral_worker.sessions.turn import Turn, TurnIds
from voxtral_worker.speech.pieces import SpokenPiece

# What a response is made of in place of the conversation: see `dialogue.exchanges`.
Context: TypeAlias = tuple[tuple[Exchange, ...], UserTurn, tuple[Round, ...]]
# Ids of turns that a worker may have given away since it last told the store.
TURNS_UNTOLD = 100


class Session:
    """Spoken turns come by `listening`, all others by the methods here; all share one queue."""

    def __init__(
        self,
        session_id: str,
        config: SessionConfig,
        now_s: float,
        max_turn_s: float = 300.0,
        *,
        speculates: bool = False,
        has_scorer: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """`max_bytes`: what it may hold of texts, audio and messages.

        `has_scorer`: whether somebody can score pauses, for `turn_detection` `semantic`.
        """
        self.session_id = session_id
        # The subject of the JWT that made it; None: whoever has a key or a JWT may open it.
        self.owner: str | None = None
        self.created_s = now_s
        self.last_activity_s = now_s
        # What clients have sent, and how often they were told of an error.
        self.message_count = 0
        self.error_count = 0
        self.memory = SessionMemory(max_bytes)
        self.has_scorer = has_scorer
        self._turn_ids = TurnIds()
        self._pending = Pending()
        self._answers = Answers(session_id, config, self.memory)
        self.listening = Listening(
            self._answers,
            self._pending,
            self._turn_ids,
            max_turn_s=max_turn_s,
            speculates=speculates,
        )
        self._speculator = self.listening.speculator
        listening = self.listening
        for part in (
            listening.heard,
            listening.partials,
            listening.transcripts,
            listening.reopening,
            self._pending,
            self._speculator,
        ):
            self.memory.hold(partial(getattr, part, "bytes"))
        self.use_config(config)

    @property
    def config(self) -> SessionConfig:
        """The options in force."""
        return self._answers.config

    @property
    def speaking(self) -> Speaking:
        """What of its answers is spoken."""
        return self._answers.speaking

    @property
    def queue_size(self) -> int:
        """Turns and texts waiting or being answered."""
        return self._answers.queue_size

    @property
    def pending(self) -> int:
        """Lots of what the user said that nobody was to answer yet."""
        return len(self._pending)

    @property
    def history(self) -> tuple[Exchange, ...]:
        """What was said so far, as it goes into the next prompt."""
        return self._answers.said()

    def stats(self) -> dict[str, Any]:
        """The counts of the documented statistics."""
        return {
            "message_count": self.message_count,
            "error_count": self.error_count,
            "queue_size": self.queue_size,
        }

    # Moving to another worker.

    def record(self, seqs: Mapping[str, int] = MappingProxyType({})) -> SessionRecord:
        """What another worker would go on from; `seqs` are the dialect's."""
        if not self.listening.has_open_turn and not self.queue_size:
            self._answers.settled_bytes = self.listening.audio_bytes_received
        return SessionRecord(
            self.config,
            self.history,
            self._turn_ids.given,
            dict(seqs),
            self._answers.settled_bytes,
            self.message_count,
            self.error_count,
            self.owner,
        )

    def go_on_from(self, record: SessionRecord) -> None:
        """Take over what another worker has recorded; this session must be new."""
        self.owner = record.owner
        self._answers.history.extend(record.history)
        self._answers.settled_bytes = record.audio_bytes
        self.listening.go_on_from(record.audio_bytes)
        self._turn_ids.given = record.turns + TURNS_UNTOLD
        self.message_count = record.message_count
        self.error_count = record.error_count

    # Answering.

    def text(
        self, words: str, now_s: float, *, to: Channel = None, tag: events.Tag = None
    ) -> list[Effect]:
        """Answer a text on a channel. Raises RateLimited when too many or much wait."""
        self._answers.require_room()
        self.memory.require(bytes_of_text(words) + self._answers.bytes_to_answer())
        turn = Turn(
            self._turn_ids.next(),
            to,
            "text",
            UserTurn((words,)),
            decided_s=now_s,
            speech_end_s=now_s,
            tag=tag,
        )
        self.listening.reopening.close()
        # A turn that is still open is answered after this text.
        return [*self._speculator.discard(), *self._accept(turn, now_s)]

    def say(self, key: str, parts: tuple[str | Audio, ...]) -> list[Effect]:
        """Take something of the user's that is answered with what comes after it.

        Raises RateLimited when it has no room.
        """
        self.memory.require(bytes_of_parts(parts) + LONGEST_ANSWER_BYTES)
        self._pending.add(key, parts)
        self.listening.reopening.close()
        return self._speculator.discard()

    def unsay(self, key: str) -> list[Effect] | None:
        """Take it back; None when it was answered, or never said."""
        return self._speculator.discard() if self._pending.remove(key) else None

    def respond(
        self,
        now_s: float,
        config: SessionConfig | None = None,
        *,
        to: Channel = None,
        tag: events.Tag = None,
        context: Context | None = None,
        joins: bool = True,
    ) -> list[Effect]:
        """Answer what was said and not answered, with options of this response alone.

        Where nothing new was said the system prompt is what is answered, in the user's place.
        `context` is answered instead of the conversation, which stays as it is but for the
        answer; without `joins` that does not belong to it either. Raises RateLimited when too
        many turns wait.
        """
        self._answers.require_room()
        self.listening.reopening.close()
        history, user, rounds = context or (None, self._pending.as_turn(), ())
        own = config or self.config
        if joins and context is None and not user.parts and self._answers.open is not None:
            return self._go_on(self._answers.open, now_s, config, to, tag)
        if not user.parts and own.system_prompt:
            user = UserTurn((own.system_prompt,))
            config = own.model_copy(update={"system_prompt": None})
        taken = sum(bytes_of_exchange(exchange) for exchange in history or ())
        taken += sum(bytes_of_round(made) for made in rounds)
        options = bytes_of_text(config.system_prompt) if config is not None else 0
        asked = taken + options + bytes_of_turn(user)
        if joins and context is None:
            # It is held already.
            asked -= self._pending.bytes
        self.memory.require(self._answers.bytes_to_answer(config=config) + max(0, asked))
        if joins and context is None:
            self._pending.clear()
        elif context is None:
            # Later answers must not be part of what it was asked after.
            history = self.history
        has_audio = any(isinstance(part, Audio) for part in user.parts)
        turn = Turn(
            self._turn_ids.next(),
            to,
            "audio" if has_audio else "text",
            user,
            decided_s=now_s,
            speech_end_s=now_s,
            tag=tag,
            config=config,
            history=history,
            history_bytes=taken,
            joins=joins,
            rounds=rounds,
        )
        return [*self._speculator.discard(), *self._accept(turn, now_s)]

    def _go_on(
        self,
        waiting: OpenExchange,
        now_s: float,
        config: SessionConfig | None,
        to: Channel,
        tag: events.Tag,
    ) -> list[Effect]:
        """Answer from the results of the calls that were made last. Raises BadInput without."""
        if missing := waiting.pending.missing:
            raise BadInput(f"the call {missing[0].call_id!r} of a tool has no result yet")
        self.memory.require(self._answers.bytes_to_answer(config=config))
        # From here on the turn holds it.
        self._answers.open = None
        turn = Turn(
            self._turn_ids.next(),
            to,
            "audio" if any(isinstance(part, Audio) for part in waiting.user.parts) else "text",
            waiting.user,
            decided_s=now_s,
            speech_end_s=now_s,
            tag=tag,
            config=config,
            rounds=waiting.all_rounds(),
            tool_s=now_s - waiting.pending.since_s,
        )
        return [*self._speculator.discard(), *self._accept(turn, now_s)]

    def tool_result(
        self, call_id: str, content: str, now_s: float, *, is_error: bool = False
    ) -> list[Effect]:
        """Take what a call of a tool came to.

        Raises CallNotFound for a call that does not wait, RateLimited when it has no room.
        """
        effects = self._answers.take_result(call_id, content, now_s)
        return [CountCalls("failed" if is_error else "answered"), *effects]

    def wake(self, now_s: float) -> list[Effect]:
        """The time has come that a WakeUp named."""
        return self._answers.wake(now_s)

    def remember_call(self, call: ToolCall, now_s: float) -> list[Effect]:
        """Take a call from outside as the assistant's; its result comes later.

        Raises BadInput while a response is being made, RateLimited when it has no room.
        """
        self._require_quiet()
        self.memory.require(bytes_of_text(call.arguments) + LONGEST_ANSWER_BYTES)
        call = dataclasses.replace(call, call_id=known_call_id(call.call_id))
        waiting, user = self._answers.open, self._pending.as_turn()
        effects = self._speculator.discard()
        if waiting is not None and not user.parts:
            if waiting.pending.has_no_result:
                waiting.pending.calls.append(call)
                return effects
            user, rounds = waiting.user, waiting.all_rounds()
            self._answers.open = None
        else:
            effects, rounds = [*effects, *self._answers.close_open()], ()
        self._pending.clear()
        pending = PendingRound(AssistantTurn(text=""), [call], now_s)
        self._answers.open = OpenExchange(user, rounds, pending)
        return effects

    def remember(self, text: str) -> list[Effect]:
        """Take what was said and not answered as answered with a text from outside.

        Where nothing was, the assistant has said it unasked. Raises BadInput while a response
        is being made, which would come before it, RateLimited when it has no room.
        """
        self._require_quiet()
        user = self._pending.as_turn()
        self.memory.require(bytes_of_text(text) + LONGEST_ANSWER_BYTES)
        answer = AssistantTurn(text=text)
        if self._answers.open is not None and not user.parts:
            return [*self._answers.close_open(answer), *self._speculator.discard()]
        effects = self._answers.close_open()
        self._pending.clear()
        self.listening.reopening.close()
        self._answers.history.append(Exchange(user, answer))
        return [*effects, *self._speculator.discard()]

    def _require_quiet(self) -> None:
        if not self._answers.is_idle:
            raise BadInput("an answer from outside cannot come while a response is being made")

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take what the engine says of a generation; one that was cancelled says nothing."""
        effects = self.listening.on_event(generation_id, event)
        if effects is None:
            effects = self._answers.on_event(generation_id, event, now_s)
        if any(isinstance(e, Tell) and isinstance(e.event, events.CallMade) for e in effects):
            # What was done cannot be taken back.
            self.listening.reopening.close()
        return effects

    def cancel(self, now_s: float, to: Channel = None) -> list[Effect]:
        """Stop the response being made, and what is being said."""
        self.listening.reopening.close()
        stopped = self._answers.stop(events.Why.CANCELLED, now_s)
        if not any(isinstance(effect, Tell) for effect in stopped):
            stopped.append(Tell(events.Stopped(None, events.Why.CANCELLED), to))
        return stopped

    def spoke(self, piece: SpokenPiece, now_s: float) -> list[Effect]:
        """Take a piece of an answer's speech, which goes out now."""
        return self._answers.speaking.spoke(piece, now_s)

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> list[Effect]:
        """The rest of an answer can only be read; told where that `is_news`."""
        self._answers.speaking.voice_failed(turn_id)
        return [Tell(events.Refused(error))] if is_news else []

    def played(self, turn_id: str, played_ms: float, now_s: float, *, is_all: bool = False) -> str:
        """A client has played so much of a turn's speech; the words that it has played.

        It plays no more of one that was interrupted; `is_all` says so of any other. Raises
        BadInput for a turn long past.
        """
        words = self._answers.played(turn_id, played_ms, now_s, is_all=is_all)
        if words is None:
            raise BadInput(f"turn_id is {turn_id[:60]!a}, but no speech of such a turn is known")
        return words

    def clear_history(self, to: Channel = None) -> list[Effect]:
        """Forget what was said; a response being made is not remembered either."""
        self.listening.reopening.close()
        self._answers.clear_history()
        return [*self._speculator.drop_stale(), Tell(events.HistoryCleared(), to)]

    def update_config(self, changes: object, to: Channel = None) -> list[Effect]:
        """Change options, all or none. Raises BadInput that names the bad one, or RateLimited."""
        config = self.config.updated(changes)
        config.require_scorer(self.has_scorer)
        effects = self.use_config(config)
        return [*effects, Tell(events.ConfigChanged(self.config), to)]

    def use_config(self, config: SessionConfig) -> list[Effect]:
        """Change all options at once; nobody is told. Raises RateLimited when there is no room."""
        self._answers.use_config(config)
        self.listening.use_config(config)
        return self._speculator.drop_stale()

    def give_up(self) -> list[Effect]:
        """Stop all work, at the end of the session; its memory is wiped."""
        # A turn that is still open has no audio left to end with.
        listening = self.listening
        effects = [*listening.forget_turn(), *listening.transcripts.give_up()]
        effects += self._answers.give_up()
        listening.heard.clear()
        self._pending.clear()
        return effects

    def _accept(self, turn: Turn, now_s: float) -> list[Effect]:
        accepted = Tell(events.Accepted(turn.turn_id, turn.tag), turn.to)
        return [accepted, *self._answers.add(turn, now_s)]
