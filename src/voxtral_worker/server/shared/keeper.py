"""Keeps the store's copies of a worker's sessions up to date.

One task writes, one session after the other, always its latest state: so nothing overtakes,
what waits is never more than the sessions there are, and no turn waits for Redis.
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

# An untouched session is written so often too: its expiry moves on with its client's
# activity, and its worker learns that it has been taken over or deleted.
REFRESH_S = 5.0
# While Redis does not answer, what should be written waits so long.
PAUSE_S = 1.0
FLUSH_S = 5.0
# Ends that Redis could not be told of; more expire there by themselves.
MAX_ENDED = 10_000


class Recorded(Entry, Protocol):
    """A session that can be written down."""

    def record(self) -> SessionRecord:
        """What another worker would go on from."""


class Kept(Protocol):
    """The sessions of this worker."""

    def ids(self) -> list[str]:
        """The ids of all."""

    def find(self, session_id: str) -> Recorded | None:
        """The session of an id, if it still is here."""


class SessionKeeper:
    """Owned by the server's loop; `run` is the one task that writes."""

    def __init__(
        self,
        store: SessionStore,
        idle_timeout_s: float,
        registry: Kept,
        let_go: Callable[[str, Saved], Awaitable[None]],
    ) -> None:
        """`let_go` is told of a session that is no longer this worker's."""
        self._store = store
        self._idle_timeout_s = idle_timeout_s
        self._registry = registry
        self._let_go = let_go
        self.refresh_s = min(REFRESH_S, idle_timeout_s / 4)
        self._changed: dict[str, None] = {}
        self._ended: dict[str, bool] = {}
        # Sessions whose state could not be written down; the store has no record of them.
        self._unwritable: set[str] = set()
        self._has_work = asyncio.Event()
        # Two records of one session must not overtake each other.
        self._writing = asyncio.Lock()

    def note_change(self, session_id: str) -> None:
        """A session should be written soon; never waits."""
        self._changed[session_id] = None
        self._has_work.set()

    def note_end(self, session_id: str, *, whoever_owns_it: bool) -> None:
        """A session is over and should be forgotten; never waits."""
        self._changed.pop(session_id, None)
        self._unwritable.discard(session_id)
        if len(self._ended) < MAX_ENDED:
            self._ended[session_id] = whoever_owns_it
        self._has_work.set()

    @property
    def ttl_s(self) -> float:
        """How long a record is kept that was written just now."""
        # Activity is told to the store only with the next refresh.
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
                await asyncio.sleep(PAUSE_S)
                self._has_work.set()

    async def flush(self) -> None:
        """Write every session now, in a limited time: the worker is going away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._write_all()
                for session_id in self._registry.ids():
                    await self.save(session_id)

    async def save(self, session_id: str) -> bool:
        """Write one session if it still is here; False when Redis does not answer."""
        async with self._writing:
            session = self._registry.find(session_id)
            if session is None or session_id in self._unwritable:
                return True
            try:
                record = session.record().as_json()
            # One session must not keep all others from being written.
            except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
                return await self._give_up(session_id)
            ttl_s = self.ttl_s - (time.monotonic() - session.last_activity_s)
            saved = await self._store.save(session_id, record, ttl_s)
        if saved in (Saved.TAKEN_OVER, Saved.ENDED):
            await self._let_go(session_id, saved)
        return saved is not Saved.LATER

    async def _give_up(self, session_id: str) -> bool:
        """Drop the record of a session that cannot be written; an old one would mislead."""
        metrics.task_failures.labels("session record").inc()
        log.exception(
            "a session cannot be written down", extra={"session": session_mark(session_id)}
        )
        if await self._store.end(session_id) is None:
            return False
        self._unwritable.add(session_id)
        return True

    async def end(self, session_id: str) -> bool | None:
        """Forget a session now, whoever owns it, and tell whether there was a record.

        None: Redis does not answer; the session is forgotten as soon as it does.
        """
        self._changed.pop(session_id, None)
        async with self._writing:
            ended = await self._store.end(session_id, whoever_owns_it=True)
        if ended is None:
            self.note_end(session_id, whoever_owns_it=True)
        self._unwritable.discard(session_id)
        return ended

    async def _write_all(self) -> bool:
        """Write what waits, ends first; False when Redis does not answer."""
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
