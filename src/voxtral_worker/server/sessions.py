"""Starts, finds and ends the sessions of this worker."""

import logging
import time
from collections.abc import Callable
from typing import Any, Generic, cast

from voxtral_worker import metrics
from voxtral_worker.errors import SessionNotFound
from voxtral_worker.logs import session_mark
from voxtral_worker.server.dialect import D
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.gate.access import Caller
from voxtral_worker.server.gate.places import Places
from voxtral_worker.server.gate.session_limits import SessionLimits
from voxtral_worker.server.lifecycle import Lifecycle
from voxtral_worker.server.observer import Observer
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.record import SessionRecord
from voxtral_worker.sessions.registry import Registry
from voxtral_worker.sessions.session import Session
from voxtral_worker.settings import Settings

log = logging.getLogger(__name__)


class Conversation(Generic[D]):
    """A session with its driver, the dialect of its clients and their limits."""

    def __init__(self, driver: Driver[D], limits: SessionLimits) -> None:
        self.driver = driver
        self.limits = limits

    @property
    def session(self) -> Session:
        """The session that the driver runs."""
        return self.driver.session

    @property
    def dialect(self) -> D:
        """The dialect of its clients."""
        return self.driver.dialect

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.session.session_id

    @property
    def last_activity_s(self) -> float:
        """When a client last did something."""
        return self.session.last_activity_s

    def record(self) -> SessionRecord:
        """The state from which another worker can continue."""
        return self.session.record(self.dialect.seqs)


class Sessions:
    """All sessions by their ids, each with what belongs to it. Owned by the server's loop."""

    def __init__(self, settings: Settings, life: Lifecycle) -> None:
        self._settings = settings
        self._life = life
        self._places = Places(settings)
        self.registry = Registry[Conversation[Any]](
            settings.max_sessions, settings.session_idle_timeout_seconds
        )

    def __len__(self) -> int:
        return len(self.registry)

    def require_room(self, caller: Caller) -> None:
        """Raises NotReady, AtCapacity or RateLimited if the caller may have no more sessions."""
        parts = self._life.require_ready()
        self.registry.require_room()
        self._places.require_room(caller.holder)
        if parts.admission is not None:
            parts.admission.require_room(time.monotonic())

    def start(
        self,
        session_id: str,
        config: SessionConfig,
        caller: Caller,
        speak: Callable[[Driver[D]], D],
        note_change: Callable[[str], None] | None = None,
    ) -> Conversation[D]:
        """Start a session in the dialect that `speak` makes. Raises as `require_room` does.

        `note_change` gets its id when its record in the store is out of date.
        """
        parts = self._life.require_ready()
        settings = self._settings
        session = Session(
            session_id,
            config,
            time.monotonic(),
            settings.max_turn_seconds,
            # If the engine runs one sequence at a time, a speculation would block all real turns.
            speculates=settings.speculation and settings.max_batch_size > 1,
            has_scorer=parts.completeness is not None,
            max_bytes=settings.max_session_bytes,
        )
        # From here to `add` and `take` nothing awaits, so no other caller can take this room.
        self.require_room(caller)
        admission = parts.admission
        if admission is not None:
            admission.talks(session_id, session.created_s)
            metrics.sessions_talking.set(admission.talking(session.created_s))
        observer = Observer(session_id, parts.tracing, admission, note_change)
        driver = Driver(
            session,
            parts.engine,
            parts.vad,
            parts.completeness,
            observer,
            speak,
            parts.speech,
        )
        conversation = Conversation(driver, SessionLimits(settings))
        self.registry.add(conversation)
        self._places.take(session_id, caller.holder)
        metrics.sessions_active.set(len(self.registry))
        return conversation

    def has(self, session_id: str) -> bool:
        """Whether this worker has such a session."""
        return self.registry.find(session_id) is not None

    def speaking(self, session_id: str, dialect: type[D]) -> Conversation[D]:
        """The session of an id, if its clients speak this dialect. Raises SessionNotFound."""
        conversation = self.registry.get(session_id)
        if not isinstance(conversation.dialect, dialect):
            raise SessionNotFound("session not found: it is spoken to in another dialect")
        return cast(Conversation[D], conversation)

    async def close(self, session_id: str, code: int, reason: str) -> bool:
        """Close a session. Its record in the store stays. False: this worker does not have it."""
        if not self.has(session_id):
            return False
        # Remove it before the first await, so that no one finds a session that is half closed.
        conversation = self.registry.remove(session_id)
        self._places.leave(session_id)
        parts = self._life.parts
        if parts is not None and parts.admission is not None:
            parts.admission.leaves(session_id)
        metrics.sessions_active.set(len(self.registry))
        await conversation.driver.close(code, reason)
        log.info("session ended", extra={"session": session_mark(session_id), "reason": reason})
        return True

    @property
    def have_work(self) -> bool:
        """Whether a turn waits or is being answered."""
        return any(each.session.queue_size for each in self.registry.everyone())

    def count_bytes(self) -> None:
        """Set the metric of the memory that all sessions hold."""
        held = sum(each.session.memory.bytes for each in self.registry.everyone())
        metrics.session_bytes.set(held)
