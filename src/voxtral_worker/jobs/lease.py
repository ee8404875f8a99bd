"""Keeps a worker running while people talk, by a job that lasts as long as its session.

RunPod counts only jobs when it scales down: it stops a worker with open sockets but no job.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from voxtral_worker.close_codes import CloseCode
from voxtral_worker.errors import NotReady
from voxtral_worker.jobs.outlet import Outlet, Piece
from voxtral_worker.jobs.schema import SessionJob
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.leased import LeasedSession
from voxtral_worker.settings import Settings

# How often the job reports its open connections.
REPORT_S = 10.0
# How often it looks whether the session still exists and is in use.
LOOK_S = 0.25


class Leases(Protocol):
    """What a lease needs of the server's sessions. Called on the loop that runs the jobs."""

    async def create(self, config: SessionConfig) -> LeasedSession:
        """A new session. Raises AtCapacity or NotReady."""

    async def exists(self, session_id: str) -> bool:
        """Whether the session has not been deleted and has not expired."""

    async def open_connections(self, session_id: str) -> int:
        """Number of open sockets of a session; 0 if there is no such session."""

    async def close(self, session_id: str, code: int) -> None:
        """End a session and close its sockets; do nothing if there is no such session."""


async def hold_lease(
    job: SessionJob,
    leases: Leases,
    outlet: Outlet,
    settings: Settings,
    is_draining: Callable[[], bool],
    report_s: float = REPORT_S,
) -> None:
    """Create a session, hand out its addresses, and wait until it is over.

    The session is ended on every way out. Raises NotReady if the worker is shutting down and no
    client is connected any more.
    """
    leased = await leases.create(job.config)
    code: int = CloseCode.DONE
    try:
        outlet.add(addresses(leased, settings))
        code = await _watch(job, leases, leased.session_id, outlet, is_draining, report_s)
    finally:
        await leases.close(leased.session_id, CloseCode.GOING_AWAY if is_draining() else code)


async def _watch(
    job: SessionJob,
    leases: Leases,
    session_id: str,
    outlet: Outlet,
    is_draining: Callable[[], bool],
    report_every_s: float,
) -> int:
    """Wait for the end of a lease; returns the code with which its sockets are closed."""
    now_s = asyncio.get_running_loop().time
    expires_s, last_open_s, report_s = now_s() + job.ttl_s, now_s(), now_s() + report_every_s
    while await leases.exists(session_id):
        connections = await leases.open_connections(session_id)
        if connections:
            last_open_s = now_s()
        elif is_draining():
            # While a client is connected, the lease continues: the server's drain lets its turn
            # finish and then closes the session.
            break
        if now_s() >= expires_s or now_s() - last_open_s >= job.idle_s:
            return CloseCode.EXPIRED
        if now_s() >= report_s:
            outlet.add({"open_connections": connections})
            report_s += report_every_s
        await asyncio.sleep(LOOK_S)
    if is_draining():
        raise NotReady("the worker is stopping; ask for a session again")
    return CloseCode.DONE


def addresses(leased: LeasedSession, settings: Settings) -> Piece:
    """The addresses of a session's sockets, as clients outside the worker can reach them."""
    audio, control = f"/ws/audio/{leased.session_id}", f"/ws/control/{leased.session_id}"
    plain = "wss" if settings.tls_cert_file else "ws"
    base = f"{plain}://localhost:{settings.port}"
    if settings.runpod_pod_id is not None:
        base = f"wss://{settings.runpod_pod_id}-{settings.port}.proxy.runpod.net"
    piece: Piece = {
        "session_id": leased.session_id,
        "websocket_url": base + audio,
        "control_url": base + control,
    }
    if leased.token is not None:
        piece["token"] = leased.token
    if settings.runpod_public_ip is not None and settings.runpod_tcp_port is not None:
        public = f"{settings.runpod_public_ip}:{settings.runpod_tcp_port}"
        piece["direct_url"] = f"{plain}://{public}{audio}"
    return piece
