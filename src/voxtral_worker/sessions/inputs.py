"""Takes the texts and items of clients, and makes turns of them."""

import dataclasses
from typing import TypeAlias

from voxtral_worker.engine.conversation import AssistantTurn, Audio, Exchange, Round, UserTurn
from voxtral_worker.engine.tools import ToolCall, known_call_id
from voxtral_worker.errors import BadInput
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.calling import OpenExchange, PendingRound
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, Effect, Tell
from voxtral_worker.sessions.memory import (
    LONGEST_ANSWER_BYTES,
    bytes_of_exchange,
    bytes_of_parts,
    bytes_of_round,
    bytes_of_text,
    bytes_of_turn,
)
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.response import Response
from voxtral_worker.sessions.spoken_turns import SpokenTurns
from voxtral_worker.sessions.turn import Own, Turn

# What a response is generated from in place of the conversation: earlier exchanges, the user's
# turn, and its rounds of tool calls. `engine.dialogue` makes them of a list of messages.
Context: TypeAlias = tuple[tuple[Exchange, ...], UserTurn, tuple[Round, ...]]


class Inputs:
    """All turns that are not found in a stream of audio. They wait in one queue with the spoken."""

    def __init__(self, answers: Answers, pending: Pending, turns: SpokenTurns) -> None:
        # What the user said that starts the next turn.
        self.pending = pending
        self._answers = answers
        # A spoken turn that may still continue gives way to what the client sends.
        self._turns = turns

    def text(
        self, words: str, now_s: float, *, to: Channel = None, tag: events.Tag = None
    ) -> list[Effect]:
        """Answer a text; its events go to the channel `to`.

        Raises RateLimited when too many turns wait or the session's memory is full.
        """
        self._answers.queue.require_room()
        room = self._answers.requests.bytes_to_answer()
        self._answers.memory.require(bytes_of_text(words) + room)
        turn_id = self._answers.queue.new_id()
        response = Response(turn_id, decided_s=now_s, speech_end_s=now_s)
        turn = Turn(turn_id, to, UserTurn((words,)), response, tag=tag)
        # A turn that is still open is answered after this text.
        return self._accept(turn, now_s)

    def say(self, key: str, parts: tuple[str | Audio, ...]) -> list[Effect]:
        """Add input that starts no answer by itself: it becomes part of the next turn.

        `key` names it for `unsay`. Raises RateLimited when the session's memory is full.
        """
        self._answers.memory.require(bytes_of_parts(parts) + LONGEST_ANSWER_BYTES)
        self.pending.add(key, parts)
        return self._turns.give_way()

    def unsay(self, key: str) -> list[Effect] | None:
        """Remove what `say` added. None: no pending input has this key."""
        return self._turns.speculator.discard() if self.pending.remove(key) else None

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
        self._answers.queue.require_room()
        self._turns.reopening.close()
        history, user, rounds = context or (None, self.pending.as_turn(), ())
        own = config or self._answers.requests.config
        open_exchange = self._answers.history.open
        if joins and context is None and not user.parts and open_exchange is not None:
            # The last response called tools and nothing was said since: continue from there.
            return self._go_on(open_exchange, now_s, config, to, tag)
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
            asked -= self.pending.bytes
        room = self._answers.requests.bytes_to_answer(config=config)
        self._answers.memory.require(room + max(0, asked))
        if joins and context is None:
            self.pending.clear()
        elif context is None:
            # Taken now, because the turn may wait: an answer that comes before it would
            # otherwise be part of its prompt.
            history = tuple(self._answers.history)
        turn_id = self._answers.queue.new_id()
        turn = Turn(
            turn_id,
            to,
            user,
            Response(turn_id, decided_s=now_s, speech_end_s=now_s),
            Own(config, history, taken, joins),
            tag=tag,
            rounds=rounds,
        )
        return self._accept(turn, now_s)

    def remember(self, text: str) -> list[Effect]:
        """Put a text that the client brings into the conversation, as the assistant's answer.

        It answers the pending input; without pending input it has no user's turn before it. Raises
        BadInput while a response is being made, because that response would come before it;
        RateLimited when the session's memory is full.
        """
        self._require_quiet()
        user = self.pending.as_turn()
        self._answers.memory.require(bytes_of_text(text) + LONGEST_ANSWER_BYTES)
        answer, history = AssistantTurn(text=text), self._answers.history
        if history.open is not None and not user.parts:
            return [*history.close_open(answer), *self._turns.speculator.discard()]
        effects = history.close_open()
        self.pending.clear()
        history.append(Exchange(user, answer))
        return [*effects, *self._turns.give_way()]

    def remember_call(self, call: ToolCall, now_s: float) -> list[Effect]:
        """Put a tool call that the client brings into the conversation, as the assistant's.

        Its result comes later. Raises BadInput while a response is being made, RateLimited when
        the session's memory is full.
        """
        self._require_quiet()
        self._answers.memory.require(bytes_of_text(call.arguments) + LONGEST_ANSWER_BYTES)
        call = dataclasses.replace(call, call_id=known_call_id(call.call_id))
        history, user = self._answers.history, self.pending.as_turn()
        effects = self._turns.speculator.discard()
        rounds: tuple[Round, ...] = ()
        if history.open is not None and not user.parts:
            if history.open.pending.has_no_result:
                # Calls that come before any result belong to one round.
                history.open.pending.calls.append(call)
                return effects
            user, rounds = history.open.user, history.open.all_rounds()
        else:
            effects += history.close_open()
        self.pending.clear()
        pending = PendingRound(AssistantTurn(text=""), [call], now_s)
        history.open = OpenExchange(user, rounds, pending)
        return effects

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
        self._answers.memory.require(self._answers.requests.bytes_to_answer(config=config))
        # The turn owns the exchange from here on, so that its memory is counted once.
        self._answers.history.open = None
        turn_id = self._answers.queue.new_id()
        turn = Turn(
            turn_id,
            to,
            waiting.user,
            Response(turn_id, decided_s=now_s, speech_end_s=now_s),
            Own(config),
            tag=tag,
            rounds=waiting.all_rounds(),
            tool_s=now_s - waiting.pending.since_s,
        )
        return self._accept(turn, now_s)

    def _accept(self, turn: Turn, now_s: float) -> list[Effect]:
        accepted = Tell(events.Accepted(turn.turn_id, turn.tag), turn.to)
        return [*self._turns.give_way(), accepted, *self._answers.add(turn, now_s)]

    def _require_quiet(self) -> None:
        if self._answers.queue:
            raise BadInput("an answer from outside cannot come while a response is being made")
