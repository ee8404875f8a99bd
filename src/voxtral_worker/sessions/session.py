"""One conversation: takes frames and texts, reports events and asks for generations.

Pure: it gets the time as an argument, holds no connection and knows no wire format. Its methods
and those of its parts return effects. The caller performs them in the order of the list.

    frames ──▶ Listening ──▶ SpokenTurns ──┐
                                           ├──▶ TurnQueue ──▶ engine ──▶ Answers ──▶ History
    texts, items ──▶ Inputs ───────────────┘                                │
                                                                            └──▶ dialect

In a pause SpokenTurns asks for an answer ahead of the turn's end. Speech cancels a response.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from voxtral_worker.engine.conversation import Exchange
from voxtral_worker.engine.request import GenerationEvent
from voxtral_worker.sessions import events
from voxtral_worker.sessions.answers import Answers
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.effects import Channel, Effect, Tell, calls_tools
from voxtral_worker.sessions.inputs import Inputs
from voxtral_worker.sessions.listening import Listening
from voxtral_worker.sessions.memory import MAX_BYTES, SessionMemory
from voxtral_worker.sessions.pending import Pending
from voxtral_worker.sessions.record import SessionRecord

# The record in the store may be older than the session: its worker may have numbered more turns
# since it last wrote. The next worker skips this many ids, so that no id is used twice.
TURNS_UNTOLD = 100


class Session:
    """Spoken turns come from `listening`, all others from `inputs`.

    Both kinds wait in one queue, in `answers`, and are answered one at a time.
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
        # The name by which clients reach it, and the owner of its work in the engine.
        self.session_id = session_id
        # The subject of the JWT that created the session. None: any API key or JWT opens it.
        self.owner: str | None = None
        self.created_s = now_s
        # When a client last sent something. A session that is quiet for too long is ended.
        self.last_activity_s = now_s
        # Messages that clients have sent, and errors that were sent to them.
        self.message_count = 0
        self.error_count = 0
        # What all parts hold together, and the limit for it.
        self.memory = SessionMemory(max_bytes)
        self.has_scorer = has_scorer
        # Input that starts no answer by itself; it becomes part of the next turn.
        pending = Pending()
        # The queue of turns, and what becomes of them: requests, the history, speech.
        self.answers = Answers(session_id, config, self.memory)
        # Turns that are found in audio, and turns that are made of all other input.
        self.listening = Listening(
            self.answers, pending, max_turn_s=max_turn_s, speculates=speculates
        )
        self.inputs = Inputs(self.answers, pending, self.listening.turns)
        answers, turns = self.answers, self.listening.turns
        # Sizes are read when they are needed, since these parts change with every frame.
        for part in (
            answers.queue,
            answers.history,
            answers.requests,
            self.listening.heard,
            turns.partials,
            turns.transcripts,
            turns.reopening,
            turns.speculator,
            pending,
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
            self.answers.queue.ids_given,
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
        self.answers.queue.ids_given = record.turns + TURNS_UNTOLD
        self.message_count = record.message_count
        self.error_count = record.error_count

    # Answering.

    def on_event(self, generation_id: str, event: GenerationEvent, now_s: float) -> list[Effect]:
        """Take an event of a generation; events of cancelled ones are ignored."""
        effects = self.listening.turns.on_event(generation_id, event)
        if effects is None:
            effects = self.answers.on_event(generation_id, event, now_s)
        if calls_tools(effects):
            # The client may run the call now. A reopened turn would take its answer back, but
            # what a tool did cannot be taken back.
            self.listening.turns.reopening.close()
        return effects

    def cancel(self, now_s: float, to: Channel = None) -> list[Effect]:
        """Stop the response being made and all speech; later turns are still answered."""
        self.listening.turns.reopening.close()
        stopped = self.answers.stop(events.Why.CANCELLED, now_s)
        if not any(isinstance(effect, Tell) for effect in stopped):
            stopped.append(Tell(events.Stopped(None, events.Why.CANCELLED), to))
        return stopped

    def clear_history(self, to: Channel = None) -> list[Effect]:
        """Forget the conversation. A response being made will not be remembered either."""
        self.listening.turns.reopening.close()
        self.answers.history.clear()
        return [*self.listening.turns.speculator.drop_stale(), Tell(events.HistoryCleared(), to)]

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
        return self.listening.turns.speculator.drop_stale()

    def give_up(self) -> list[Effect]:
        """End the session: stop all work and forget all it holds."""
        effects = [*self.listening.give_up(), *self.answers.give_up()]
        self.inputs.pending.clear()
        return effects
