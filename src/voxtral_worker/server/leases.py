"""Gives sessions to callers on another event loop: RunPod's lease jobs."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import SessionNotFound
from voxtral_worker.server.gate.access import Caller
from voxtral_worker.server.service import Service
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.server.tools import require_callable
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.leased import LeasedSession

T = TypeVar("T")


class SessionLeases:
    """Runs each call on the server's loop, which owns the sessions, and returns its result."""

    def __init__(self, server: ServerThread) -> None:
        self._server = server

    async def create(self, config: SessionConfig) -> LeasedSession:
        """A new session. Raises AtCapacity, NotReady, or BadSchema for its tools.

        If the caller is cancelled while it waits, the new session is ended again.
        """
        service = self._server.service
        made = self._server.begin(_create(service, config))
        try:
            # Shielded, so that the future stays alive and its callback can end the session. A
            # cancel that is passed to the other loop might come after the session was made.
            return await asyncio.shield(asyncio.wrap_future(made))
        except asyncio.CancelledError:
            made.add_done_callback(self._end_unknown)
            raise

    async def exists(self, session_id: str) -> bool:
        """Whether the session has not been deleted and has not expired."""
        return await self._on_server(_exists(self._server.service, session_id))

    async def open_connections(self, session_id: str) -> int:
        """Number of open sockets of a session; 0 if there is no such session."""
        return await self._on_server(_open_connections(self._server.service, session_id))

    async def close(self, session_id: str, code: int) -> None:
        """End a session and close its sockets; do nothing if there is no such session."""
        await self._on_server(_close(self._server.service, session_id, code))

    def _end_unknown(self, made: "Future[LeasedSession]") -> None:
        if not made.cancelled() and made.exception() is None:
            self._server.begin(
                _close(self._server.service, made.result().session_id, CloseCode.DONE)
            )

    async def _on_server(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._server.begin(work))


async def _create(service: Service, config: SessionConfig) -> LeasedSession:
    # `Caller()` has no owner and no limits: only holders of the platform's key can send jobs.
    await require_callable(service.require_ready().engine, config.toolbox)
    session_id = service.create(config, Caller()).session_id
    await service.shared.publish(session_id)
    token = service.credentials.issue(session_id) if service.credentials.are_needed else None
    return LeasedSession(session_id, token)


async def _exists(service: Service, session_id: str) -> bool:
    return service.sessions.has(session_id)


async def _open_connections(service: Service, session_id: str) -> int:
    conversation = service.sessions.registry.find(session_id)
    return 0 if conversation is None else len(conversation.driver.channels)


async def _close(service: Service, session_id: str, code: int) -> None:
    try:
        await service.end(session_id, code, "lease over")
    except SessionNotFound:
        return
