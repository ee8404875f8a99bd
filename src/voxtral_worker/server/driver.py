"""Runs one session on the event loop: feeds it audio and messages, and carries out its effects.

The session decides and the driver acts: it performs the session's effects in order, and gives
their results back to the session. The dialect reads and writes the clients' messages.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

from voxtral_worker import metrics
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationEvent
from voxtral_worker.errors import EngineFailure, WorkerError
from voxtral_worker.logs import context_about, session_mark
from voxtral_worker.server.channels import AUDIO, Channels
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.dialect import D
from voxtral_worker.server.ears import Ears
from voxtral_worker.server.observer import Observer
from voxtral_worker.sessions import events
from voxtral_worker.sessions.effects import (
    Cancel,
    Channel,
    Commit,
    CountCalls,
    Effect,
    EndSpeech,
    Generate,
    Hush,
    Score,
    Settle,
    Speak,
    Tell,
    WakeUp,
)
from voxtral_worker.sessions.memory import INBOX_BYTES
from voxtral_worker.sessions.session import Session
from voxtral_worker.speech.pieces import SpokenPiece
from voxtral_worker.speech.speaker import Speaker
from voxtral_worker.speech.speech import Speech, require_voice

if TYPE_CHECKING:
    # For types only: they import PyTorch, and the server must listen before that is loaded.
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.turns.completeness import Completeness
    from voxtral_worker.turns.vad import Vad

log = logging.getLogger(__name__)

# While the inbox is full, the session's sockets are not read, so a fast client is slowed down.
INBOX_ITEMS = 32


class Driver(Generic[D]):
    """One task takes the items of all channels, in the order in which they came.

    Everything here runs on the event loop, so the session needs no locks.
    """

    def __init__(
        self,
        session: Session,
        engine: "Engine",
        vad: "Vad",
        scorer: "Completeness | None",
        observer: Observer,
        speak: Callable[["Driver[D]"], D],
        speech: Speech | None = None,
    ) -> None:
        """Start the session's task.

        `scorer` scores pauses, and `speech` speaks answers; None: the worker cannot do this.
        `speak` makes the dialect.
        """
        self.session = session
        self.engine = engine
        # The logging context of the session. Its work must not be logged under the id of the
        # request that happened to start it.
        self.context = context_about(session=session_mark(session.session_id))
        self.channels = Channels()
        self._vad = vad
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        # The generations that the engine is making, by their ids.
        self._generations: dict[str, Generation] = {}
        # Channel, item and its bytes.
        self._inbox: asyncio.Queue[tuple[str, Any, int]] = asyncio.Queue(INBOX_ITEMS)
        # Set when the inbox may have room again.
        self._has_room = asyncio.Event()
        # The timer of the session's last WakeUp; None: there is none.
        self._alarm: asyncio.TimerHandle | None = None
        self.ears = Ears(
            session,
            vad,
            scorer,
            self.context,
            self.perform,
            is_open=lambda: self.channels.find(AUDIO) is not None,
            is_behind=lambda: not self._inbox.empty(),
        )
        self._speech = speech
        speaking = session.answers.speaking
        speaking.is_listened_to = self._is_listened_to
        self._speaker = None if speech is None else Speaker(speech, speaking.playback, self)
        self.dialect = speak(self)
        self._task = asyncio.create_task(
            self._run(), name=f"session {session_mark(session.session_id)}", context=self.context
        )

    # What comes in.

    async def take(self, channel: str, connection: Connection, item: Any, size: int = 0) -> bool:
        """Put an item of `size` bytes into the inbox; waits while it is full.

        False: the connection is no longer the channel's, and the item is dropped.
        """
        # Check in each round: when the session ends, `close` detaches all connections and sets
        # `_has_room`. Otherwise a reader would wait here without end.
        while self._has_full_inbox(size) and self.channels.is_attached(channel, connection):
            self._has_room.clear()
            await self._has_room.wait()
        if not self.channels.is_attached(channel, connection):
            return False
        self._inbox.put_nowait((channel, item, size))
        self.session.memory.inbox_bytes += size
        return True

    def detach(self, channel: str, connection: Connection) -> None:
        """Forget a connection that has gone.

        An open turn stays open until it stalls, so that the client can reconnect.
        """
        self.channels.detach(channel, connection)
        if channel == AUDIO:
            self.ears.watch_for_stall()

    async def close(self, code: int, reason: str) -> None:
        """End the session: stop its work, close its connections, forget its audio."""
        # First end all that may still act on the session, and its sockets last.
        await self.dialect.close()
        self.perform(self.session.give_up())
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._alarm is not None:
            self._alarm.cancel()
        if self._speaker is not None:
            await self._speaker.close()
        self.ears.stop_watching()
        self.channels.close(code, reason)
        self._has_room.set()
        self._vad.forget(self.session.session_id)
        self.engine.forget(self.session.session_id)

    def _has_full_inbox(self, size: int) -> bool:
        waiting = self.session.memory.inbox_bytes
        # An empty inbox takes an item of any size, or a large one could never get in.
        return self._inbox.full() or bool(waiting and waiting + size > INBOX_BYTES)

    async def _run(self) -> None:
        while True:
            channel, item, size = await self._inbox.get()
            self.session.memory.inbox_bytes -= size
            self._has_room.set()
            try:
                await self.dialect.take(channel, item)
            except WorkerError as error:
                self.refuse(channel, error)
            except Exception:  # the session's task: one bad message must not end the session
                log.exception("a message failed")
                self.refuse(channel, EngineFailure("the message could not be processed"))

    # What goes out.

    def refuse(self, channel: Channel, error: WorkerError) -> None:
        """Send the client an error: its message was refused."""
        self.tell(events.Refused(error), channel)

    def tell(self, event: events.Event, to: Channel = None) -> None:
        """Send an event to the client, and show it to the observer; never waits."""
        if isinstance(event, events.Refused | events.Failed):
            self.session.error_count += 1
        self._observer.see(event, time.monotonic())
        self.dialect.tell(event, to)

    def perform(self, effects: list[Effect]) -> None:
        """Perform the session's effects in order; never waits."""
        for effect in effects:
            match effect:
                case Tell(event, to):
                    self.tell(event, to)
                case Generate(generation_id):
                    self._generate(generation_id, effect)
                case Cancel(generation_id):
                    generation = self._generations.pop(generation_id, None)
                    if generation is not None:
                        generation.cancel()
                case Commit(generation_id):
                    # A generation that is already finished is no longer in the table.
                    if generation_id in self._generations:
                        self._generations[generation_id].commit()
                case WakeUp(at_s):
                    self._wake_up(at_s)
                case CountCalls(outcome, calls):
                    metrics.tool_calls.labels(outcome).inc(calls)
                case Settle(outcome, wasted_tokens):
                    metrics.speculations.labels(outcome).inc()
                    metrics.tokens_discarded.inc(wasted_tokens)
                case Score(pause, samples):
                    self.ears.ask_for_score(pause, samples)
                case Speak() | EndSpeech() | Hush():
                    self._speak(effect)

    # Speech: the driver is the `Listener` of the session's speaker.

    def require_voice(self, voice: str | None) -> None:
        """Raises BadInput if answers cannot be spoken with this voice."""
        require_voice(self._speech, voice)

    def spoke(self, piece: SpokenPiece) -> None:
        """Send a piece of speech."""
        self.perform(self.session.answers.speaking.spoke(piece, time.monotonic()))

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> None:
        """Continue an answer as text only."""
        self.perform(self.session.answers.speaking.voice_failed(turn_id, error, is_news=is_news))

    def _is_listened_to(self) -> bool:
        has_listener = self.channels.find(AUDIO, may_wait=True) is not None
        return self._speaker is not None and has_listener

    def _speak(self, effect: Speak | EndSpeech | Hush) -> None:
        if self._speaker is None:
            return
        match effect:
            case Speak(turn_id, text, format_):
                self._speaker.say(turn_id, text, format_)
            case EndSpeech(turn_id):
                self._speaker.end(turn_id)
            case Hush():
                self._speaker.hush()

    def _wake_up(self, at_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        wait_s = max(0.0, at_s - time.monotonic())
        self._alarm = self._loop.call_later(wait_s, self._wake, context=self.context)

    def _wake(self) -> None:
        self._alarm = None
        self.perform(self.session.answers.wake(time.monotonic()))

    def _generate(self, generation_id: str, effect: Generate) -> None:
        def listener(event: GenerationEvent) -> None:
            # The engine's thread calls this. When the worker stops, the loop may already be closed
            # while the engine still sends events.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(
                    self._on_event, generation_id, event, context=self.context
                )

        try:
            self._generations[generation_id] = self.engine.submit(effect.request, listener)
        except WorkerError as error:
            # Not at once: the effects after this one must be performed first.
            self._loop.call_soon(self._on_event, generation_id, Failed(error), context=self.context)

    def _on_event(self, generation_id: str, event: GenerationEvent) -> None:
        if isinstance(event, Finished | Failed):
            self._generations.pop(generation_id, None)
        elif isinstance(event, Delta) and generation_id not in self._generations:
            # It was cancelled while this delta was on its way.
            return
        self.perform(self.session.on_event(generation_id, event, time.monotonic()))
