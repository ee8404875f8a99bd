"""One conversation: takes frames and texts, reports events and asks for generations.

Pure: it gets the time as an argument, holds no connection and knows no wire format. Every
method returns effects; the caller performs them in the order of the list.

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
from voxtral_worker.sessions.response import Response
from voxtral_worker.sessions.turn import Turn, TurnIds
from voxtral_worker.speech.pieces import SpokenPiece

# What a response is generated from in place of the conversation: earlier exchanges, the user's
# turn, and its rounds of tool calls. `engine.dialogue` makes them of a list of messages.
Context: TypeAlias = tuple[tuple[Exchange, ...], UserTurn, tuple[Round, ...]]
# The record in the store may be older than the session: its worker may have numbered more turns
# since it last wrote. The next worker skips this many ids, so that no id is used twice.
TURNS_UNTOLD = 100


class Session:
    """Spoken turns come from `listening`, all others from the methods here.

    Both kinds wait in one queue, in `Answers`, and are answered one at a time.
    """

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
        """Start an empty conversation.

        `max_turn_s`: a longer spoken turn is cut. `speculates`: whether answers may be generated
        before a turn is over. `has_scorer`: whether the worker has a model that scores pauses,
        which `turn_detection` `semantic` needs. `max_bytes`: limit for texts, audio and messages.
        """
        self.session_id = session_id
        # The subject of the JWT that created the session. None: any API key or JWT opens it.
        self.owner: str | None = None
        self.created_s = now_s
        self.last_activity_s = now_s
        # Messages that clients have sent, and errors that were sent to them.
        self.message_count = 0
        self.error_count = 0
        self.memory = SessionMemory(max_bytes)
        self.has_scorer = has_scorer
        self._turn_ids = TurnIds()
        self._pending = Pending()
        self.answers = Answers(session_id, config, self.memory)
        self.speaking = self.answers.speaking
        self.listening = Listening(
            self.answers,
            self._pending,
            self._turn_ids,
            max_turn_s=max_turn_s,
            speculates=speculates,
        )
        self._speculator = self.listening.speculator
        answers, listening = self.answers, self.listening
        # Sizes are read when they are needed, since these parts change with every frame.
        for part in (
            answers.queue,
            answers.history,
            answers.requests,
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
        """The current options."""
        return self.answers.requests.config

    @property
    def queue_size(self) -> int:
        """Turns and texts waiting or being answered."""
        return len(self.answers.queue)

    @property
    def pending(self) -> int:
        """Number of pending inputs: what the user said that starts the next turn."""
        return len(self._pending)

    @property
    def history(self) -> tuple[Exchange, ...]:
        """The exchanges so far, as they go into the next prompt."""
        return tuple(self.answers.history)

    def stats(self) -> dict[str, Any]:
        """The counts that the documented statistics show."""
        return {
            "message_count": self.message_count,
            "error_count": self.error_count,
            "queue_size": self.queue_size,
        }

    # Moving to another worker.

    def record(self, seqs: Mapping[str, int] = MappingProxyType({})) -> SessionRecord:
        """The state from which another worker can continue.

        `seqs` are the dialect's: the last sequence number of each of its channels.
        """
        # With no turn open and none waiting, all audio so far is answered or was silence, so a
        # client need not send it again to the next worker.
        if not self.listening.has_open_turn and not self.queue_size:
            self.answers.queue.settled_bytes = self.listening.audio_bytes_received
        return SessionRecord(
            self.config,
            self.history,
            self._turn_ids.given,
            dict(seqs),
            self.answers.queue.settled_bytes,
            self.message_count,
            self.error_count,
            self.owner,
        )

    def go_on_from(self, record: SessionRecord) -> None:
        """Continue from the record of another worker; this session must be new."""
        self.owner = record.owner
        self.answers.history.extend(record.history)
        self.answers.queue.settled_bytes = record.audio_bytes
        self.listening.go_on_from(record.audio_bytes)
        self._turn_ids.given = record.turns + TURNS_UNTOLD
        self.message_count = record.message_count
        self.error_count = record.error_count

    # Answering.

    def text(
        self, words: str, now_s: float, *, to: Channel = None, tag: events.Tag = None
    ) -> list[Effect]:
        """Answer a text; its events go to the channel `to`.

        Raises RateLimited when too many turns wait or the session's memory is full.
        """
        self.answers.queue.require_room()
        self.memory.require(bytes_of_text(words) + self.answers.requests.bytes_to_answer())
        turn_id = self._turn_ids.next()
        turn = Turn(
            turn_id,
            to,
            "text",
            UserTurn((words,)),
            Response(turn_id, decided_s=now_s, speech_end_s=now_s),
            tag=tag,
        )
        self.listening.reopening.close()
        # A turn that is still open is answered after this text.
        return [*self._speculator.discard(), *self._accept(turn, now_s)]

    def say(self, key: str, parts: tuple[str | Audio, ...]) -> list[Effect]:
        """Add input that starts no answer by itself: it becomes part of the next turn.

        `key` names it for `unsay`. Raises RateLimited when the session's memory is full.
        """
        self.memory.require(bytes_of_parts(parts) + LONGEST_ANSWER_BYTES)
        self._pending.add(key, parts)
        self.listening.reopening.close()
        return self._speculator.discard()

    def unsay(self, key: str) -> list[Effect] | None:
        """Remove what `say` added. None: no pending input has this key."""
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
        """Answer the pending input; `config` has the options of this response alone.

        If there is no pending input, the system prompt takes the place of the user's turn.
        `context` is answered instead of the conversation, which then gains only the answer;
        with `joins` false it does not gain the answer either.

        Raises RateLimited when too many turns wait or the session's memory is full, BadInput
        when a tool call that this response builds on has no result yet.
        """
        self.answers.queue.require_room()
        self.listening.reopening.close()
        history, user, rounds = context or (None, self._pending.as_turn(), ())
        own = config or self.config
        if joins and context is None and not user.parts and self.answers.history.open is not None:
            # The last response called tools and nothing was said since: continue from there.
            return self._go_on(self.answers.history.open, now_s, config, to, tag)
        if not user.parts and own.system_prompt:
            # The prompt's format needs a user's turn. Without the option, the text is not in it
            # twice.
            user = UserTurn((own.system_prompt,))
            config = own.model_copy(update={"system_prompt": None})
        taken = sum(bytes_of_exchange(exchange) for exchange in history or ())
        taken += sum(bytes_of_round(made) for made in rounds)
        options = bytes_of_text(config.system_prompt) if config is not None else 0
        asked = taken + options + bytes_of_turn(user)
        if joins and context is None:
            # Pending input is already counted in the session's memory.
            asked -= self._pending.bytes
        self.memory.require(self.answers.requests.bytes_to_answer(config=config) + max(0, asked))
        if joins and context is None:
            self._pending.clear()
        elif context is None:
            # Taken now, because the turn may wait: an answer that comes before it would
            # otherwise be part of its prompt.
            history = self.history
        has_audio = any(isinstance(part, Audio) for part in user.parts)
        turn_id = self._turn_ids.next()
        turn = Turn(
            turn_id,
            to,
            "audio" if has_audio else "text",
            user,
            Response(turn_id, decided_s=now_s, speech_end_s=now_s),
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
        """Answer from the results of the last calls. Raises BadInput if one is missing."""
        if missing := waiting.pending.missing:
            raise BadInput(f"the call {missing[0].call_id!r} of a tool has no result yet")
        self.memory.require(self.answers.requests.bytes_to_answer(config=config))
        # The turn owns the exchange from here on, so that its memory is counted once.
        self.answers.history.open = None
        turn_id = self._turn_ids.next()
        turn = Turn(
            turn_id,
            to,
            "audio" if any(isinstance(part, Audio) for part in waiting.user.parts) else "text",
            waiting.user,
            Response(turn_id, decided_s=now_s, speech_end_s=now_s),
            tag=tag,
            config=config,
            rounds=waiting.all_rounds(),
            tool_s=now_s - waiting.pending.since_s,
        )
        return [*self._speculator.discard(), *self._accept(turn, now_s)]

    def tool_result(
        self, call_id: str, content: str, now_s: float, *, is_error: bool = False
    ) -> list[Effect]:
        """Take the result of a tool call.

        Raises CallNotFound if no such call waits for a result, RateLimited when the session's
        memory is full.
        """
        effects = self.answers.take_result(call_id, content, now_s)
        return [CountCalls("failed" if is_error else "answered"), *effects]

    def wake(self, now_s: float) -> list[Effect]:
        """Do what is due: the time of a WakeUp effect has come."""
        return self.answers.wake(now_s)

    def remember_call(self, call: ToolCall, now_s: float) -> list[Effect]:
        """Put a tool call that the client brings into the conversation, as the assistant's.

        Its result comes later. Raises BadInput while a response is being made, RateLimited when
        the session's memory is full.
        """
        self._require_quiet()
        self.memory.require(bytes_of_text(call.arguments) + LONGEST_ANSWER_BYTES)
        call = dataclasses.replace(call, call_id=known_call_id(call.call_id))
        waiting, user = self.answers.history.open, self._pending.as_turn()
        effects = self._speculator.discard()
        if waiting is not None and not user.parts:
            if waiting.pending.has_no_result:
                # Calls that come before any result belong to one round.
                waiting.pending.calls.append(call)
                return effects
            user, rounds = waiting.user, waiting.all_rounds()
            self.answers.history.open = None
        else:
            effects, rounds = [*effects, *self.answers.history.close_open()], ()
        self._pending.clear()
        pending = PendingRound(AssistantTurn(text=""), [call], now_s)
        self.answers.history.open = OpenExchange(user, rounds, pending)
        return effects

    def remember(self, text: str) -> list[Effect]:
        """Put a text that the client brings into the conversation, as the assistant's answer.

        It answers the pending input; without pending input it has no user's turn before it. Raises
        BadInput while a response is being made, because that response would come before it;
        RateLimited when the session's memory is full.
        """
        self._require_quiet()
        user = self._pending.as_turn()
        self.memory.require(bytes_of_text(text) + LONGEST_ANSWER_BYTES)
        answer = AssistantTurn(text=text)
        if self.answers.history.open is not None and not user.parts:
            return [*self.answers.history.close_open(answer), *self._speculator.discard()]
        effects = self.answers.history.close_open()
        self._pending.clear()
        self.listening.reopening.close()
        self.answers.history.append(Exchange(user, answer))
        return [*effects, *self._speculator.discard()]

    def _require_quiet(self) -> None:
        if self.answers.queue:
            raise BadInput("an answer from outside cannot come while a response is being made")

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take an event of a generation; events of cancelled ones are ignored."""
        effects = self.listening.on_event(generation_id, event)
        if effects is None:
            effects = self.answers.on_event(generation_id, event, now_s)
        if any(isinstance(e, Tell) and isinstance(e.event, events.CallMade) for e in effects):
            # The client may run the call now. A reopened turn would take its answer back, but
            # what a tool did cannot be taken back.
            self.listening.reopening.close()
        return effects

    def cancel(self, now_s: float, to: Channel = None) -> list[Effect]:
        """Stop the response being made and all speech; later turns are still answered."""
        self.listening.reopening.close()
        stopped = self.answers.stop(events.Why.CANCELLED, now_s)
        if not any(isinstance(effect, Tell) for effect in stopped):
            stopped.append(Tell(events.Stopped(None, events.Why.CANCELLED), to))
        return stopped

    def spoke(self, piece: SpokenPiece, now_s: float) -> list[Effect]:
        """Send a piece of an answer's speech to the client now."""
        return self.speaking.spoke(piece, now_s)

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> list[Effect]:
        """Continue an answer as text only. The client gets the error if it `is_news`."""
        self.speaking.voice_failed(turn_id)
        return [Tell(events.Refused(error))] if is_news else []

    def clear_history(self, to: Channel = None) -> list[Effect]:
        """Forget the conversation. A response being made will not be remembered either."""
        self.listening.reopening.close()
        self.answers.history.clear()
        return [*self._speculator.drop_stale(), Tell(events.HistoryCleared(), to)]

    def update_config(self, changes: object, to: Channel = None) -> list[Effect]:
        """Change options, all of them or none.

        Raises BadInput that names the bad option, RateLimited when longer answers have no room.
        """
        config = self.config.updated(changes)
        config.require_scorer(self.has_scorer)
        effects = self.use_config(config)
        return [*effects, Tell(events.ConfigChanged(self.config), to)]

    def use_config(self, config: SessionConfig) -> list[Effect]:
        """Replace all options without an event for the client.

        Raises RateLimited when longer answers have no room.
        """
        self.answers.use_config(config)
        self.listening.use_config(config)
        return self._speculator.drop_stale()

    def give_up(self) -> list[Effect]:
        """End the session: stop all work and forget all it holds."""
        # An open turn is dropped, not ended: no more audio will come for it.
        listening = self.listening
        effects = [*listening.forget_turn(), *listening.transcripts.give_up()]
        effects += self.answers.give_up()
        listening.heard.clear()
        self._pending.clear()
        return effects

    def _accept(self, turn: Turn, now_s: float) -> list[Effect]:
        accepted = Tell(events.Accepted(turn.turn_id, turn.tag), turn.to)
        return [accepted, *self.answers.add(turn, now_s)]
