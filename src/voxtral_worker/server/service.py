"""What all calls share: the worker's lifecycle, its sessions, and who may have them."""

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

# How often the worker looks for sessions that have expired.
SWEEP_S = 0.25


class Service:
    """Creates and ends sessions, here and in the shared store. Owned by the server's loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.credentials = Credentials(settings)
        self.client_addresses = ClientAddresses(settings)
        self.address_limits = AddressLimits(settings)
        self.life = Lifecycle()
        self.sessions = Sessions(settings, self.life)
        store = SessionStore(settings.session_store) if settings.session_store else None
        self.shared = Takeover(store, self.sessions, settings.session_idle_timeout_seconds)

    # The lifecycle of the worker.

    @property
    def parts(self) -> Parts | None:
        """The parts that cold start has made; None: it is not done."""
        return self.life.parts

    @property
    def phase(self) -> Phase:
        """The phase of the worker."""
        return self.life.phase

    @property
    def started_at(self) -> int:
        """When the worker started, in Unix seconds."""
        return self.life.started_at

    def require_ready(self) -> Parts:
        """The parts of the worker. Raises NotReady unless it is ready."""
        return self.life.require_ready()

    def call_under_way(self) -> AbstractContextManager[None]:
        """Count a call for the length of a `with` block: a drain waits for it."""
        return self.life.call_under_way()

    async def drain(self, timeout_s: float) -> None:
        """Notify all clients, let turns finish for up to `timeout_s`, then close with 1012."""
        if self.life.begin_drain():
            for conversation in self.sessions.registry.everyone():
                conversation.driver.tell(events.Draining())
        deadline_s = time.monotonic() + timeout_s
        while self._has_work() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        # Write the records before the sockets close: clients reconnect at once, and the next
        # worker must find the latest state.
        await self.shared.flush()
        for session_id in self.sessions.registry.ids():
            await self.sessions.close(session_id, CloseCode.GOING_AWAY, CloseCode.GOING_AWAY.reason)

    def _has_work(self) -> bool:
        return bool(self.life.calls_under_way) or self.sessions.have_work

    async def close(self) -> None:
        """Close the links to the shared stores. This is the last thing the server does."""
        await self.address_limits.close()
        await self.shared.close()

    # Sessions.

    def require_room(self, caller: Caller) -> None:
        """Raises NotReady, AtCapacity or RateLimited if the caller may have no more sessions."""
        self.sessions.require_room(caller)

    def create(self, config: SessionConfig, caller: Caller) -> Conversation[NativeDialect]:
        """Create a session in the documented dialect. Raises as `create_in` does."""
        return self.create_in(NativeDialect, config, caller, self.shared.note_change)

    def create_in(
        self,
        speak: Callable[[Driver[D]], D],
        config: SessionConfig,
        caller: Caller,
        note_change: Callable[[str], None] | None = None,
    ) -> Conversation[D]:
        """Create a session in the dialect that `speak` makes. The caller's subject owns it.

        `note_change`: called when the session's record is out of date; None: the session is not
        in the store, and no other worker can take it over. Raises as `require_room` does, and
        BadInput if the worker cannot do what the config asks.
        """
        config.require_scorer(self.require_ready().completeness is not None)
        require_voice(self.require_ready().speech, config.voice)
        conversation = self.sessions.start(str(uuid.uuid4()), config, caller, speak, note_change)
        conversation.session.owner = caller.subject
        metrics.sessions_total.inc()
        log.info("session created", extra={"session": session_mark(conversation.session_id)})
        return conversation

    def introduce(self, session_id: str) -> dict[str, Any]:
        """What a client must know of its new session to connect to it."""
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
        """End a session and its connections, on whichever worker. Raises SessionNotFound."""
        if await self.sessions.close(session_id, code, reason):
            # A session that has expired here may continue on another worker: do not end it there.
            self.shared.note_end(session_id, whoever_owns_it=code != CloseCode.EXPIRED)
        elif not await self.shared.end(session_id):
            raise SessionNotFound("session not found: create a new session")

    async def delete(self, session_id: str) -> None:
        """End a session on whichever worker, and delete its record in the store.

        Raises SessionNotFound, or NotReady if the store does not answer now.
        """
        done = CloseCode.DONE
        was_here = await self.sessions.close(session_id, done, done.reason)
        was_elsewhere = await self.shared.delete(session_id)
        if was_elsewhere is None:
            raise NotReady("the session's record cannot be deleted now", retry_after_s=5)
        if not (was_here or was_elsewhere):
            raise SessionNotFound("session not found: create a new session")

    async def exists(self, session_id: str) -> bool:
        """Whether there is such a session, here or on another worker."""
        return self.sessions.has(session_id) or await self.shared.look(session_id) is not None

    async def is_open_to(self, session_id: str, caller: Caller) -> bool:
        """Whether a caller may know of a session. If there is no such session, either is right."""
        if not caller.is_by_jwt:
            return True
        conversation = self.sessions.registry.find(session_id)
        if conversation is not None:
            return caller.may_open(conversation.session.owner)
        record = await self.shared.look(session_id)
        return record is not None and caller.may_open(record.owner)

    async def sweep(self) -> None:
        """End sessions whose clients did nothing for too long; runs until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._end_expired()

    async def _end_expired(self) -> None:
        # A function of its own: a variable of `sweep` would keep the last session that has ended
        # in memory until the next sweep.
        registry = self.sessions.registry
        for session_id in [each.session_id for each in registry.expired(time.monotonic())]:
            # `end` waits, and others of the list may have been deleted since.
            if self.sessions.has(session_id):
                registry.get(session_id).driver.tell(events.Expired())
                await self.end(session_id, CloseCode.EXPIRED, CloseCode.EXPIRED.reason)
