"""Keeps the store's copies of a worker's sessions up to date.

One task writes, one session after the other, always its latest state: so nothing overtakes,
what waits is never more than the sessions there are, and no turn waits for Redis.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from voxtral_worker.server.session_store import Saved, SessionStore
from voxtral_worker.sessions.registry import Registry

# An untouched session is written so often too: its expiry moves on with its client's
# activity, and its worker learns that it has been taken over or deleted.
REFRESH_S = 5.0
# While Redis does not answer, what should be written waits so long.
PAUSE_S = 1.0
FLUSH_S = 5.0
# Ends that Redis could not be told of; more expire there by themselves.
MAX_ENDED = 10_000


class SessionKeeper:
    """Owned by the server's loop; `run` is the one task that writes."""

    def __init__(
        self,
        store: SessionStore,
        idle_timeout_s: float,
        registry: Registry,
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
            if session is None:
                return True
            ttl_s = self.ttl_s - (time.monotonic() - session.last_activity_s)
            saved = await self._store.save(session_id, session.record().as_json(), ttl_s)
        if saved in (Saved.TAKEN_OVER, Saved.ENDED):
            await self._let_go(session_id, saved)
        return saved is not Saved.LATER

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
