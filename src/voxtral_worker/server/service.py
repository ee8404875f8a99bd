"""What all calls share: the life of the worker, its sessions, and who may have them."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from voxtral_worker import metrics
from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import NotReady, SessionNotFound
from voxtral_worker.logs import session_mark
from voxtral_worker.server.dialect import D
from voxtral_worker.server.driver import Driver
from voxtral_worker.server.gate.access import Caller, ClientAddresses, Credentials
from voxtral_worker.server.gate.address_limits import AddressLimits
from voxtral_worker.server.lifecycle import Lifecycle, Parts, Phase
from voxtral_worker.server.native.dialect import NativeDialect
from voxtral_worker.server.sessions import Conversation, Sessions
from voxtral_worker.server.shared.store import SessionStore
from voxtral_worker.server.shared.takeover import Takeover
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import require_voice

log = logging.getLogger(__name__)

SWEEP_S = 0.25


class Service:
    """Ends a session here and in the store alike. Owned by the server's event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.credentials = Credentials(settings)
        self.client_addresses = ClientAddresses(settings)
        self.address_limits = AddressLimits(settings)
        self.life = Lifecycle()
        self.sessions = Sessions(settings, self.life)
        store = SessionStore(settings.session_store) if settings.session_store else None
        self.shared = Takeover(store, self.sessions, settings.session_idle_timeout_seconds)

    # The worker's life.

    @property
    def parts(self) -> Parts | None:
        """What cold start has made; None before."""
        return self.life.parts

    @property
    def phase(self) -> Phase:
        """How far the worker is."""
        return self.life.phase

    @property
    def started_at(self) -> int:
        """When the worker began, in Unix seconds."""
        return self.life.started_at

    def require_ready(self) -> Parts:
        """What serves a call. Raises NotReady unless the worker is ready."""
        return self.life.require_ready()

    def call_under_way(self) -> AbstractContextManager[None]:
        """A call that a drain waits for."""
        return self.life.call_under_way()

    async def drain(self, timeout_s: float) -> None:
        """Tell everybody, let turns in flight finish, close all with 1012."""
        if self.life.begin_drain():
            for conversation in self.sessions.registry.everyone():
                conversation.driver.tell(events.Draining())
        deadline_s = time.monotonic() + timeout_s
        while self._has_work() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        await self.shared.flush()
        for session_id in self.sessions.registry.ids():
            await self.sessions.close(session_id, CloseCode.GOING_AWAY, CloseCode.GOING_AWAY.reason)

    def _has_work(self) -> bool:
        return bool(self.life.calls_under_way) or self.sessions.have_work

    async def close(self) -> None:
        """Let go of what is shared with other workers; the last thing the server does."""
        await self.address_limits.close()
        await self.shared.close()

    # Sessions.

    def require_room(self, caller: Caller) -> None:
        """Raises NotReady, AtCapacity or RateLimited unless a caller may have one more session."""
        self.sessions.require_room(caller)

    def create(self, config: SessionConfig, caller: Caller) -> Conversation[NativeDialect]:
        """A new session in the documented dialect. Raises as `require_room` does."""
        return self.create_in(NativeDialect, config, caller, self.shared.note_change)

    def create_in(
        self,
        speak: Callable[[Driver[D]], D],
        config: SessionConfig,
        caller: Caller,
        note_change: Callable[[str], None] | None = None,
    ) -> Conversation[D]:
        """A new session in any dialect, which its caller's subject owns.

        One without `note_change` ends with its connection: nobody could take it over.
        """
        config.require_scorer(self.require_ready().completeness is not None)
        require_voice(self.require_ready().speech, config.voice)
        conversation = self.sessions.start(str(uuid.uuid4()), config, caller, speak, note_change)
        conversation.session.owner = caller.subject
        metrics.sessions_total.inc()
        log.info("session created", extra={"session": session_mark(conversation.session_id)})
        return conversation

    def introduce(self, session_id: str) -> dict[str, Any]:
        """What a client must know of its new session to speak to it."""
        token = {}
        if self.credentials.are_needed:
            token["token"] = self.credentials.issue(session_id)
        return {
            "session_id": session_id,
            "websocket_url": f"/ws/audio/{session_id}",
            "control_url": f"/ws/control/{session_id}",
            "expires_in": self.settings.session_idle_timeout_seconds,
            **token,
        }

    async def end(self, session_id: str, code: int, reason: str) -> None:
        """End a session, with its connections, wherever it is. Raises SessionNotFound."""
        if await self.sessions.close(session_id, code, reason):
            # Who has expired here may have gone on at another worker.
            self.shared.note_end(session_id, whoever_owns_it=code != CloseCode.EXPIRED)
        elif not await self.shared.end(session_id):
            raise SessionNotFound("session not found: create a new session")

    async def delete(self, session_id: str) -> None:
        """End a session wherever it is, in the store as well.

        Raises SessionNotFound, or NotReady when the store cannot be told now.
        """
        done = CloseCode.DONE
        was_here = await self.sessions.close(session_id, done, done.reason)
        was_elsewhere = await self.shared.delete(session_id)
        if was_elsewhere is None:
            raise NotReady("the session's record cannot be deleted now", retry_after_s=5)
        if not (was_here or was_elsewhere):
            raise SessionNotFound("session not found: create a new session")

    async def exists(self, session_id: str) -> bool:
        """Whether there is such a session, here or elsewhere."""
        return self.sessions.has(session_id) or await self.shared.look(session_id) is not None

    async def is_open_to(self, session_id: str, caller: Caller) -> bool:
        """Whether a caller may know of a session. Of none it may, or may not: it is all one."""
        if not caller.is_by_jwt:
            return True
        conversation = self.sessions.registry.find(session_id)
        if conversation is not None:
            return caller.may_open(conversation.session.owner)
        record = await self.shared.look(session_id)
        return record is not None and caller.may_open(record.owner)

    async def sweep(self) -> None:
        """End sessions that have been quiet for too long; runs until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._end_expired()

    async def _end_expired(self) -> None:
        # A function of its own: a variable of `sweep` would keep the last session that has ended
        # in memory until the next sweep.
        registry = self.sessions.registry
        for session_id in [each.session_id for each in registry.expired(time.monotonic())]:
            # While one is ended, others may be deleted.
            if self.sessions.has(session_id):
                registry.get(session_id).driver.tell(events.Expired())
                await self.end(session_id, CloseCode.EXPIRED, CloseCode.EXPIRED.reason)
