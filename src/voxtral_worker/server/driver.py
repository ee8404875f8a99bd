"""Gives a session its time, its ears, its engine and its sockets.

The session decides, the driver does: it performs effects in order and feeds back what
comes of them. Everything here runs on the server's event loop.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationEvent
from voxtral_worker.errors import BadInput, EngineFailure, WorkerError
from voxtral_worker.logs import context_about
from voxtral_worker.server.connection import Connection
from voxtral_worker.server.observer import Observer
from voxtral_worker.sessions.effects import (
    Cancel,
    Commit,
    Effect,
    Generate,
    LineName,
    Send,
    Settle,
)
from voxtral_worker.sessions.messages import (
    ClientMessage,
    ConfigUpdate,
    Control,
    ErrorMessage,
    Plain,
    ServerMessage,
    Status,
    TextInput,
)
from voxtral_worker.sessions.session import Session

if TYPE_CHECKING:
    # The server listens before these bring PyTorch in.
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.turns.vad import Vad

log = logging.getLogger(__name__)

INBOX_ITEMS = 32
CLOSE_REPLACED = 4409
# Frames the VAD is asked about at a time, so that a long chunk is no long wait for others.
FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Attach:
    """A connection that wants what it missed before anything new."""

    connection: Connection
    last_seq: int


class DialectItem:
    """A message of another dialect than the documented one, for that dialect's driver."""


Item: TypeAlias = bytes | ClientMessage | Attach | DialectItem


class SessionDriver:
    """One task takes what both connections bring, in the order in which it came."""

    # Whether the documented sockets may open connections to the session.
    is_open_to_sockets = True

    def __init__(self, session: Session, engine: "Engine", vad: "Vad", observer: Observer) -> None:
        self.session = session
        self._observer = observer
        self._engine = engine
        self._vad = vad
        self._loop = asyncio.get_running_loop()
        self._connections: dict[LineName, Connection] = {}
        self._attaching: dict[LineName, Connection] = {}
        self._generations: dict[str, Generation] = {}
        self._inbox: asyncio.Queue[tuple[LineName, Item]] = asyncio.Queue(INBOX_ITEMS)
        self._has_room = asyncio.Event()
        self._stream = AudioStream(session.config.encoding, session.config.sample_rate)
        self._stream_format = (session.config.encoding, session.config.sample_rate)
        self._stall_timer: asyncio.TimerHandle | None = None
        # What the session does is logged as its own, whoever's call began it.
        self._context = context_about(session_id=session.session_id)
        self._task = asyncio.create_task(
            self._run(), name=f"session {session.session_id}", context=self._context
        )

    # Connections.

    @property
    def open_connections(self) -> int:
        """Connections that are open on either line."""
        return len({**self._connections, **self._attaching})

    def attach(
        self, line: LineName, connection: Connection, *, waits_for_replay: bool = False
    ) -> None:
        """Make a connection the one of its line; the older one is closed.

        One that waits for its replay gets nothing numbered until `Attach` has been taken.
        """
        for older in (self._connections.pop(line, None), self._attaching.pop(line, None)):
            if older is not None:
                older.close(CLOSE_REPLACED, "replaced by a newer connection")
        connected = {
            "status": "connected",
            "client_id": connection.client_id,
            "session_id": self.session.session_id,
            "server_time": time.time(),
        }
        self._send_to(connection, line, Plain("status", connected))
        if waits_for_replay:
            self._attaching[line] = connection
        else:
            self._connections[line] = connection
            self._watch_for_stall()

    def detach(self, line: LineName, connection: Connection) -> None:
        """The connection is gone; an open turn stays open while its client reconnects."""
        for connections in (self._connections, self._attaching):
            if connections.get(line) is connection:
                del connections[line]
        if line is LineName.AUDIO:
            self._watch_for_stall()

    def is_attached(self, line: LineName, connection: Connection) -> bool:
        """Whether the connection still is the one of its line."""
        return connection in (self._connections.get(line), self._attaching.get(line))

    async def take(self, line: LineName, connection: Connection, item: Item) -> bool:
        """Bring something in; waits while the inbox is full. False: no longer attached."""
        # A session that has ended never takes anything from its inbox again.
        while self._inbox.full() and self.is_attached(line, connection):
            self._has_room.clear()
            await self._has_room.wait()
        if not self.is_attached(line, connection):
            return False
        self._inbox.put_nowait((line, item))
        return True

    def heartbeat(self, line: LineName, connection: Connection) -> None:
        """Tell a connection that the session lives, and how far its line has come."""
        self._send_to(connection, line, Plain("heartbeat", {"seq": self.session.lines[line].seq}))

    def tell(self, message: ServerMessage) -> None:
        """Say something on every open connection."""
        for line, connection in {**self._connections, **self._attaching}.items():
            self._send_to(connection, line, message)

    def refuse(self, line: LineName, error: WorkerError) -> None:
        """Tell a client that what it sent was not taken."""
        self.perform(self.session.refuse(line, error))

    async def close(self, code: int, reason: str) -> None:
        """End the session: stop its work, close its connections, forget what it heard."""
        self.perform(self.session.give_up())
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        for connection in {**self._connections, **self._attaching}.values():
            connection.close(code, reason)
        self._connections.clear()
        self._attaching.clear()
        self._has_room.set()
        self._vad.forget(self.session.session_id)
        self._engine.forget(self.session.session_id)

    # What comes in.

    async def _run(self) -> None:
        while True:
            line, item = await self._inbox.get()
            self._has_room.set()
            try:
                await self._handle(line, item)
            except WorkerError as error:
                self.refuse(line, error)
            except Exception:  # the socket driver: one of the named places
                log.exception("a message failed")
                self.refuse(line, EngineFailure("the message could not be processed"))

    async def _handle(self, line: LineName, item: Item) -> None:
        now_s = time.monotonic()
        match item:
            case bytes():
                await self._hear(item)
            case TextInput():
                log.debug("text received", extra={"text": item.text})
                self.perform(self.session.text(line, item, now_s))
            case ConfigUpdate(changes):
                self.perform(self.session.update_config(line, changes))
            case Control():
                self._control(line, item, now_s)
            case Attach():
                if self._attaching.get(line) is item.connection:
                    del self._attaching[line]
                    self._replay(line, item.connection, item.last_seq)
                    self._connections[line] = item.connection
                    self._watch_for_stall()

    def _control(self, line: LineName, control: Control, now_s: float) -> None:
        connection = self._connections.get(line)
        match control.control_type:
            case "ping":
                self._send(line, Plain("control", {"control_type": "pong"}))
            case "get_stats" if connection is not None:
                self._send(line, Plain("status", {"stats": self._stats(connection)}))
            case "cancel":
                self.perform(self.session.cancel(line, now_s))
            case "end_turn":
                self.perform(self.session.end_turn(line, now_s))
            case "clear_history":
                self.perform(self.session.clear_history(line))
            case "resume" if connection is not None:
                self._replay(line, connection, control.last_seq)

    async def _hear(self, chunk: bytes) -> None:
        started_s = time.monotonic()
        config = self.session.config
        if self._stream_format != (config.encoding, config.sample_rate):
            self._stream_format = (config.encoding, config.sample_rate)
            self._stream = AudioStream(config.encoding, config.sample_rate)
        frames = self._stream.push(chunk)
        self.session.audio_bytes_received += len(chunk)
        metrics.audio_bytes.inc(len(chunk))
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            await self._hear_frames(frames[start : start + FRAMES_AT_ONCE])
        metrics.audio_processing.observe(time.monotonic() - started_s)
        self._watch_for_stall()

    async def _hear_frames(self, frames: NDArray[np.float32]) -> None:
        probabilities = await self._vad.listen(self.session.session_id, frames)
        self.perform(self.session.hear(frames, probabilities.tolist(), time.monotonic()))

    def _watch_for_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self.session.has_open_turn and LineName.AUDIO in self._connections:
            self._stall_timer = self._loop.call_later(
                self.session.stall_s, self._stall, context=self._context
            )

    def _stall(self) -> None:
        if self._inbox.empty():
            self.perform(self.session.stall(time.monotonic()))

    def _replay(self, line: LineName, connection: Connection, last_seq: int) -> None:
        self.session.lines[line].catch_up(last_seq)
        texts, missed = self.session.lines[line].after(last_seq)
        for text in texts:
            connection.send(text)
        resumed = {"audio_bytes_received": self.session.audio_bytes_received, "missed": missed}
        self._send_to(connection, line, Status("resumed", extra=resumed))

    def _stats(self, connection: Connection) -> dict[str, object]:
        return {
            "client_id": connection.client_id,
            "session_id": self.session.session_id,
            "connection_duration": round(time.monotonic() - connection.opened_s, 3),
            **self.session.stats(),
        }

    # What goes out.

    def perform(self, effects: list[Effect]) -> None:
        """Do what the session asks, in order; never waits."""
        for effect in effects:
            match effect:
                case Send(line, message):
                    self._send(line, message)
                case Generate(generation_id):
                    self._generate(generation_id, effect)
                case Cancel(generation_id):
                    generation = self._generations.pop(generation_id, None)
                    if generation is not None:
                        generation.cancel()
                case Commit(generation_id):
                    # One that is finished already is no longer here.
                    if generation_id in self._generations:
                        self._generations[generation_id].commit()
                case Settle(outcome, wasted_tokens):
                    metrics.speculations.labels(outcome).inc()
                    metrics.tokens_discarded.inc(wasted_tokens)

    def _generate(self, generation_id: str, effect: Generate) -> None:
        def listener(event: GenerationEvent) -> None:
            # The loop is closed when the worker stops while the engine still speaks.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(
                    self._on_event, generation_id, event, context=self._context
                )

        try:
            self._generations[generation_id] = self._engine.submit(effect.request, listener)
        except WorkerError as error:
            self._loop.call_soon(
                self._on_event, generation_id, Failed(error), context=self._context
            )

    def _on_event(self, generation_id: str, event: GenerationEvent) -> None:
        if isinstance(event, Finished | Failed):
            self._generations.pop(generation_id, None)
        elif isinstance(event, Delta) and generation_id not in self._generations:
            return
        self.perform(self.session.on_event(generation_id, event, time.monotonic()))

    def _send(self, line: LineName, message: ServerMessage) -> None:
        text = self._write(line, message)
        connection = self._connections.get(line)
        if connection is None and not message.is_numbered:
            # Not held for later, so it may go to a connection that still waits for its replay.
            connection = self._attaching.get(line)
        if connection is not None:
            connection.send(text)

    def _send_to(self, connection: Connection, line: LineName, message: ServerMessage) -> None:
        connection.send(self._write(line, message))

    def _write(self, line: LineName, message: ServerMessage) -> str:
        self._note(message)
        return self.session.lines[line].write(message, time.time())

    def _note(self, message: ServerMessage) -> None:
        """Count, log and trace what is told, in whatever dialect."""
        if isinstance(message, ErrorMessage):
            self.session.error_count += 1
        self._observer.see(message, time.monotonic())


def parse_last_seq(text: str | None) -> int | None:
    """The `last_seq` of a connection's address. Raises BadInput."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadInput("last_seq must be a whole number of at least 0")
    return int(text)
