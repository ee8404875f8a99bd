"""Keeps the records of this worker's sessions in the store up to date.

One task writes one session after the other, and always its latest state. So records cannot be
written in the wrong order, at most one write per session waits, and no turn waits for Redis.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from voxtral_worker import metrics
from voxtral_worker.logs import session_mark
from voxtral_worker.server.shared.store import Saved, SessionStore
from voxtral_worker.sessions.record import SessionRecord
from voxtral_worker.sessions.registry import Entry

log = logging.getLogger(__name__)

# A session without changes is also written so often: to extend the expiry of its record, and to
# learn whether another worker has taken the session over or deleted it.
REFRESH_S = 5.0
# How long writing waits when Redis did not answer.
PAUSE_S = 1.0
FLUSH_S = 5.0
# Ended sessions whose records could not be deleted yet. Records beyond that expire by themselves.
MAX_ENDED = 10_000


class Recorded(Entry, Protocol):
    """A session that has a record."""

    def record(self) -> SessionRecord:
        """The state from which another worker can continue."""


class Kept(Protocol):
    """The sessions of this worker."""

    def ids(self) -> list[str]:
        """The ids of all sessions."""

    def find(self, session_id: str) -> Recorded | None:
        """The session of an id; None: this worker does not have it."""


class SessionKeeper:
    """Writes and deletes records. Owned by the server's loop; `run` is its task."""

    def __init__(
        self,
        store: SessionStore,
        idle_timeout_s: float,
        registry: Kept,
        let_go: Callable[[str, Saved], Awaitable[None]],
    ) -> None:
        """`let_go` is called with a session that no longer belongs to this worker."""
        self._store = store
        self._idle_timeout_s = idle_timeout_s
        self._registry = registry
        self._let_go = let_go
        self.refresh_s = min(REFRESH_S, idle_timeout_s / 4)
        # Sessions to write, oldest change first. A dict, because sets have no order.
        self._changed: dict[str, None] = {}
        # Records to delete; True: even if another worker owns the session.
        self._ended: dict[str, bool] = {}
        # Sessions whose records cannot be made; the store has none of them.
        self._unwritable: set[str] = set()
        self._has_work = asyncio.Event()
        # `publish` and `flush` write too. With the lock, an older record of a session cannot
        # arrive after a newer one.
        self._writing = asyncio.Lock()

    def note_change(self, session_id: str) -> None:
        """Write a session soon; never waits."""
        self._changed[session_id] = None
        self._has_work.set()

    def note_end(self, session_id: str, *, whoever_owns_it: bool) -> None:
        """Delete the record of a session soon; never waits.

        With `whoever_owns_it` it is deleted even if another worker owns the session now.
        """
        self._changed.pop(session_id, None)
        self._unwritable.discard(session_id)
        if len(self._ended) < MAX_ENDED:
            self._ended[session_id] = whoever_owns_it
        self._has_work.set()

    @property
    def ttl_s(self) -> float:
        """How long a record that is written now stays in the store."""
        # Longer than the idle timeout: activity extends the expiry only with the next refresh.
        return self._idle_timeout_s + self.refresh_s

    async def run(self) -> None:
        """Write until cancelled."""
        refresh_at_s = time.monotonic() + self.refresh_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, refresh_at_s - time.monotonic())):
                    await self._has_work.wait()
            if time.monotonic() >= refresh_at_s:
                refresh_at_s = time.monotonic() + self.refresh_s
                self._changed.update(dict.fromkeys(self._registry.ids()))
            if not await self._write_all():
                # Redis does not answer. What could not be written still waits.
                await asyncio.sleep(PAUSE_S)
                self._has_work.set()

    async def flush(self) -> None:
        """Write all sessions now, for at most `FLUSH_S`: the worker is shutting down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._write_all()
                for session_id in self._registry.ids():
                    await self.save(session_id)

    async def save(self, session_id: str) -> bool:
        """Write a session if this worker still has it. False: Redis does not answer."""
        async with self._writing:
            session = self._registry.find(session_id)
            if session is None or session_id in self._unwritable:
                return True
            try:
                record = session.record().as_json()
            # A bug in the record of one session must not stop the records of all others.
            except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
                return await self._give_up(session_id)
            ttl_s = self.ttl_s - (time.monotonic() - session.last_activity_s)
            saved = await self._store.save(session_id, record, ttl_s)
        if saved in (Saved.TAKEN_OVER, Saved.ENDED):
            await self._let_go(session_id, saved)
        return saved is not Saved.LATER

    async def _give_up(self, session_id: str) -> bool:
        """Delete the record of a session that cannot be written.

        Another worker would otherwise continue from an old state.
        """
        metrics.task_failures.labels("session record").inc()
        log.exception(
            "the record of a session cannot be made", extra={"session": session_mark(session_id)}
        )
        if await self._store.end(session_id) is None:
            return False
        self._unwritable.add(session_id)
        return True

    async def end(self, session_id: str) -> bool | None:
        """Delete the record of a session now, whichever worker owns it. True: there was one.

        None: Redis does not answer now; the record is deleted as soon as it does.
        """
        self._changed.pop(session_id, None)
        async with self._writing:
            ended = await self._store.end(session_id, whoever_owns_it=True)
        if ended is None:
            self.note_end(session_id, whoever_owns_it=True)
        self._unwritable.discard(session_id)
        return ended

    async def _write_all(self) -> bool:
        """Delete and write all that waits, deletions first. False: Redis does not answer."""
        # Cleared before the work, so that a change that comes during it sets it again.
        self._has_work.clear()
        for session_id, whoever in list(self._ended.items()):
            if await self._store.end(session_id, whoever_owns_it=whoever) is None:
                return False
            self._ended.pop(session_id, None)
        while self._changed:
            session_id = next(iter(self._changed))
            del self._changed[session_id]
            if not await self.save(session_id):
                self._changed[session_id] = None
                return False
        return True
