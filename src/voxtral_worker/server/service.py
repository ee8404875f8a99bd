"""What all calls share: the phase of the worker, its sessions and their limits."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from voxtral_worker import metrics
from voxtral_worker.errors import NotReady, SessionNotFound
from voxtral_worker.server.access import Credentials
from voxtral_worker.server.driver import SessionDriver
from voxtral_worker.server.limits import AddressLimits
from voxtral_worker.server.observer import Observer
from voxtral_worker.server.session_keeper import SessionKeeper
from voxtral_worker.server.session_limits import SessionLimits
from voxtral_worker.server.session_store import Saved, SessionStore
from voxtral_worker.sessions.admission import Admission
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.messages import Status
from voxtral_worker.sessions.record import SessionRecord, read_record
from voxtral_worker.sessions.registry import Registry
from voxtral_worker.sessions.session import Session
from voxtral_worker.settings import Settings
from voxtral_worker.tracing import Tracing

if TYPE_CHECKING:
    # The server listens before these bring PyTorch in.
    from voxtral_worker.engine.engine import Engine
    from voxtral_worker.engine.model import LoadedModel
    from voxtral_worker.turns.vad import Vad

    MakeDriver: TypeAlias = Callable[[Session, Engine, Vad, Observer], SessionDriver]

log = logging.getLogger(__name__)

SWEEP_S = 0.25
CLOSE_DONE = 1000
CLOSE_GOING_AWAY = 1012
CLOSE_EXPIRED = 4408
CLOSE_REPLACED = 4409

_NO_SESSION = "session not found: create a new session"


class Phase(Enum):
    """Where the worker is in its life, as `GET /health` says it."""

    STARTING = "starting"
    READY = "healthy"
    DRAINING = "draining"
    FAILED = "unhealthy"


@dataclass(frozen=True)
class Parts:
    """What cold start makes and the server needs."""

    engine: "Engine"
    vad: "Vad"
    loaded: "LoadedModel"
    tracing: Tracing | None = None
    admission: Admission | None = None


class Service:
    """A session is in the registry and has a driver, or neither.

    Owned by the server's event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.credentials = Credentials(settings)
        self.registry = Registry(settings.max_sessions, settings.session_idle_timeout_seconds)
        self.parts: Parts | None = None
        self.started_s = time.monotonic()
        self.started_at = int(time.time())
        self._phase = Phase.STARTING
        self._drivers: dict[str, SessionDriver] = {}
        self._limits: dict[str, SessionLimits] = {}
        self.address_limits = AddressLimits(settings)
        self._calls_under_way = 0
        self._store = SessionStore(settings.session_store) if settings.session_store else None
        self._keeper = self._keeper_of(self._store) if self._store else None
        self._taking = asyncio.Lock()

    # The worker's life.

    @property
    def phase(self) -> Phase:
        """The phase now; a worker whose engine has died is not healthy."""
        if self._phase is Phase.READY and self.parts and not self.parts.engine.is_healthy:
            return Phase.FAILED
        return self._phase

    def become_ready(self, parts: Parts) -> None:
        """The model is loaded and warm: sessions are welcome."""
        self.parts = parts
        self._phase = Phase.READY

    def fail(self) -> None:
        """The model cannot be loaded; this worker will never be ready."""
        self._phase = Phase.FAILED

    async def drain(self, timeout_s: float) -> None:
        """Tell everybody, let turns in flight finish, close all with 1012."""
        if self._phase is not Phase.DRAINING:
            self._phase = Phase.DRAINING
            for driver in self._drivers.values():
                driver.tell(Status("draining"))
        deadline_s = time.monotonic() + timeout_s
        while self._has_work() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        if self._keeper is not None:
            await self._keeper.flush()
        for session_id in self.registry.ids():
            await self._close(session_id, CLOSE_GOING_AWAY, "worker going away: reconnect")

    def _has_work(self) -> bool:
        sessions = self.registry.everyone()
        return bool(self._calls_under_way) or any(session.queue_size for session in sessions)

    @contextlib.contextmanager
    def call_under_way(self) -> Iterator[None]:
        """A call that a drain waits for."""
        self._calls_under_way += 1
        try:
            yield
        finally:
            self._calls_under_way -= 1

    async def close(self) -> None:
        """Let go of what is shared with other workers; the last thing the server does."""
        await self.address_limits.close()
        if self._store is not None:
            await self._store.close()

    # Sessions.

    def require_ready(self) -> Parts:
        """What serves a session. Raises NotReady unless the worker is ready."""
        if self.phase is not Phase.READY or self.parts is None:
            raise NotReady(f"the worker is {self.phase.value}", retry_after_s=5)
        return self.parts

    def require_room(self) -> None:
        """Raises NotReady or AtCapacity unless there is room for one more session."""
        parts = self.require_ready()
        self.registry.require_room()
        if parts.admission is not None:
            parts.admission.require_room(time.monotonic())

    def create(self, config: SessionConfig, make_driver: "MakeDriver" = SessionDriver) -> Session:
        """A new session. Raises NotReady or AtCapacity."""
        session = self._start(str(uuid.uuid4()), config, make_driver)
        metrics.sessions_total.inc()
        log.info("session created", extra={"session_id": session.session_id})
        return session

    def _start(
        self, session_id: str, config: SessionConfig, make_driver: "MakeDriver" = SessionDriver
    ) -> Session:
        parts = self.require_ready()
        session = Session(
            session_id,
            config,
            time.monotonic(),
            self.settings.max_turn_seconds,
            # With a single place a guess would stand in everybody's way.
            speculates=self.settings.speculation and self.settings.max_batch_size > 1,
        )
        self.require_room()
        self.registry.add(session)
        admission = parts.admission
        if admission is not None:
            admission.talks(session.session_id, session.created_s)
            metrics.sessions_talking.set(admission.talking(session.created_s))
        # Sessions of other dialects end with their connection: nobody could take them over.
        keeper = self._keeper if make_driver is SessionDriver else None
        note_change = keeper.note_change if keeper is not None else None
        observer = Observer(session.session_id, parts.tracing, admission, note_change)
        self._drivers[session.session_id] = make_driver(session, parts.engine, parts.vad, observer)
        self._limits[session.session_id] = SessionLimits(self.settings)
        metrics.sessions_active.set(len(self.registry))
        return session

    def has(self, session_id: str) -> bool:
        """Whether there is such a session."""
        return session_id in self._drivers

    def driver(self, session_id: str) -> SessionDriver:
        """Raises SessionNotFound."""
        self.registry.get(session_id)
        return self._drivers[session_id]

    def limits(self, session_id: str) -> SessionLimits:
        """Raises SessionNotFound after its end."""
        self.registry.get(session_id)
        return self._limits[session_id]

    async def end(self, session_id: str, code: int, reason: str) -> None:
        """End a session, with its connections, wherever it is. Raises SessionNotFound."""
        if self._store is not None and not self.has(session_id):
            is_sane = _is_known_form(session_id)
            if not is_sane or not await self._store.end(session_id, whoever_owns_it=True):
                raise SessionNotFound(_NO_SESSION)
            return
        await self._close(session_id, code, reason)
        if self._keeper is not None:
            # Who has expired here may have gone on at another worker.
            self._keeper.note_end(session_id, whoever_owns_it=code != CLOSE_EXPIRED)

    async def _close(self, session_id: str, code: int, reason: str) -> None:
        """Close a session here; its record, if it has one, stays."""
        self.registry.remove(session_id)
        driver = self._drivers.pop(session_id)
        self._limits.pop(session_id)
        if self.parts is not None and self.parts.admission is not None:
            self.parts.admission.leaves(session_id)
        metrics.sessions_active.set(len(self.registry))
        await driver.close(code, reason)
        log.info("session ended", extra={"session_id": session_id, "reason": reason})

    # Sessions that several workers share.

    async def publish(self, session_id: str) -> None:
        """Let other workers know of a new session, before its client does."""
        if self._keeper is not None:
            await self._keeper.save(session_id)

    async def keep(self) -> None:
        """Keep the other workers' knowledge up to date; runs until cancelled."""
        if self._keeper is not None:
            await self._keeper.run()

    async def exists(self, session_id: str) -> bool:
        """Whether there is such a session, here or elsewhere."""
        return self.has(session_id) or await self.look(session_id) is not None

    async def look(self, session_id: str) -> SessionRecord | None:
        """The record of a session that is elsewhere; it stays there."""
        if self._store is None or not _is_known_form(session_id):
            return None
        return _read(await self._store.look(session_id))

    async def bring(self, session_id: str) -> None:
        """If a session is not here but elsewhere, take it over. Raises AtCapacity or NotReady."""
        if self._store is None or self._keeper is None or not _is_known_form(session_id):
            return
        async with self._taking:
            if self.has(session_id):
                return
            self.require_ready()
            self.require_room()
            record = _read(await self._store.take(session_id, self._keeper.ttl_s))
            if record is not None:
                self._start(session_id, record.config).go_on_from(record)
                metrics.sessions_taken_over.inc()
                log.info("session taken over", extra={"session_id": session_id})

    def _keeper_of(self, store: SessionStore) -> SessionKeeper:
        idle_s = self.settings.session_idle_timeout_seconds
        return SessionKeeper(store, idle_s, self.registry, self._let_go)

    async def _let_go(self, session_id: str, saved: Saved) -> None:
        if not self.has(session_id):
            return
        if saved is Saved.ENDED:
            await self._close(session_id, CLOSE_DONE, "session deleted")
        else:
            await self._close(session_id, CLOSE_REPLACED, "taken over by another worker")

    async def sweep(self) -> None:
        """End sessions that have been quiet for too long; runs until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._end_expired()

    async def _end_expired(self) -> None:
        # In a call of its own: a name in `sweep` would hold the last session until the next.
        for session in self.registry.expired(time.monotonic()):
            self._drivers[session.session_id].tell(Status("session_expired"))
            await self.end(session.session_id, CLOSE_EXPIRED, "session expired")


def _read(text: bytes | None) -> SessionRecord | None:
    if text is None:
        return None
    try:
        return read_record(text)
    except ValueError as error:
        log.warning("a session's record cannot be used: %s", error)
        return None


def _is_known_form(session_id: str) -> bool:
    """Whether it could be the id of a session: the store is not asked for anything else."""
    try:
        return str(uuid.UUID(session_id)) == session_id
    except ValueError:
        return False
