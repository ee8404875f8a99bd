"""Shares sessions between workers: each lives on one worker, and its record is in a store."""

import asyncio
import logging
import uuid

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.logs import session_mark
from voxtral_worker.server.gate.access import Caller
from voxtral_worker.server.native.dialect import NativeDialect
from voxtral_worker.server.sessions import Sessions
from voxtral_worker.server.shared.keeper import SessionKeeper
from voxtral_worker.server.shared.store import Saved, SessionStore
from voxtral_worker.sessions.record import SessionRecord, read_record

log = logging.getLogger(__name__)


class Takeover:
    """Writes this worker's sessions to the store, and takes over those of other workers.

    Without a store it does nothing.
    """

    def __init__(
        self, store: SessionStore | None, sessions: Sessions, idle_timeout_s: float
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._keeper: SessionKeeper | None = None
        if store is not None:
            self._keeper = SessionKeeper(store, idle_timeout_s, sessions.registry, self._let_go)
        # Two sockets of one session may arrive together: the second must find the session that
        # the first one has brought.
        self._taking = asyncio.Lock()

    def note_change(self, session_id: str) -> None:
        """Note that a session's record is out of date; never waits."""
        if self._keeper is not None:
            self._keeper.note_change(session_id)

    def note_end(self, session_id: str, *, whoever_owns_it: bool) -> None:
        """Note that a session has ended here; never waits."""
        if self._keeper is not None:
            self._keeper.note_end(session_id, whoever_owns_it=whoever_owns_it)

    async def publish(self, session_id: str) -> None:
        """Write a new session to the store.

        Callers do this before the client learns the id: its next call may reach another worker.
        """
        if self._keeper is not None:
            await self._keeper.save(session_id)

    async def keep(self) -> None:
        """Keep the store up to date; runs until cancelled."""
        if self._keeper is not None:
            await self._keeper.run()

    async def flush(self) -> None:
        """Write all sessions now, in a limited time: the worker is shutting down."""
        if self._keeper is not None:
            await self._keeper.flush()

    async def close(self) -> None:
        """Close the connections to the store."""
        if self._store is not None:
            await self._store.close()

    async def look(self, session_id: str) -> SessionRecord | None:
        """The record of a session on another worker, without taking it over."""
        if self._store is None or not _is_known_form(session_id):
            return None
        return _read(await self._store.look(session_id))

    async def end(self, session_id: str) -> bool:
        """End a session on another worker. False: the store knows of none."""
        if self._store is None or not _is_known_form(session_id):
            return False
        return bool(await self._store.end(session_id, whoever_owns_it=True))

    async def delete(self, session_id: str) -> bool | None:
        """Delete a session's record, whichever worker owns it. True: there was one.

        None: the store does not answer now; the record is deleted as soon as it does.
        """
        if self._keeper is None or not _is_known_form(session_id):
            return False
        return await self._keeper.end(session_id)

    async def bring(self, session_id: str, caller: Caller) -> None:
        """Take a session over if another worker has it. Raises as `require_room` does."""
        if self._store is None or self._keeper is None or not _is_known_form(session_id):
            return
        async with self._taking:
            # Look before asking for room: for a session that does not exist, the client must get
            # "not found" and not "at capacity".
            if self._sessions.has(session_id) or await self._store.look(session_id) is None:
                return
            self._sessions.require_room(caller)
            record = _read(await self._store.take(session_id, self._keeper.ttl_s))
            if record is not None:
                self._start(session_id, record, caller)

    def _start(self, session_id: str, record: SessionRecord, caller: Caller) -> None:
        taken = self._sessions.start(
            session_id, record.config, caller, NativeDialect, self.note_change
        )
        taken.session.go_on_from(record)
        taken.dialect.go_on_from(record.seqs)
        metrics.sessions_taken_over.inc()
        log.info("session taken over", extra={"session": session_mark(session_id)})

    async def _let_go(self, session_id: str, saved: Saved) -> None:
        if saved is Saved.ENDED:
            code, reason = CloseCode.DONE, CloseCode.DONE.reason
        else:
            code, reason = CloseCode.REPLACED, "taken over by another worker"
        await self._sessions.close(session_id, code, reason)


def _read(text: bytes | None) -> SessionRecord | None:
    if text is None:
        return None
    try:
        return read_record(text)
    except ValueError as error:
        log.warning("a session's record cannot be used: %s", error)
        return None


def _is_known_form(session_id: str) -> bool:
    """Whether this could be a session's id. The store is not asked for anything else."""
    try:
        return str(uuid.UUID(session_id)) == session_id
    except ValueError:
        return False
