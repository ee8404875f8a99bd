"""How long a session job lasts, and where it says its session is."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from tests.support.job_fakes import FakeLeases, SteppingEngine, until
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.lease import addresses, hold_lease
from voxtral_worker.jobs.outlet import Outlet
from voxtral_worker.jobs.schema import SessionJob
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.sessions.leased import LeasedSession
from voxtral_worker.settings import Settings, read_settings


def start(leases: FakeLeases, **fields: Any) -> tuple[JobHandler, AsyncGenerator[dict[str, Any]]]:
    handler = JobHandler(SteppingEngine(), dict, Settings(), leases, stall_s=0.01)
    pieces = handler.handle({"id": "j1", "input": {"type": "session", **fields}})
    assert isinstance(pieces, AsyncGenerator)
    return handler, pieces


async def rest(pieces: AsyncGenerator[dict[str, Any]]) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [piece async for piece in pieces]


async def test_a_lease_first_says_where_the_session_is() -> None:
    leases = FakeLeases(token="t1")
    _, pieces = start(leases, config={"mode": "transcribe"}, ttl_seconds=5)
    assert await anext(pieces) == {
        "session_id": "s1",
        "websocket_url": "ws://localhost:8000/ws/audio/s1",
        "control_url": "ws://localhost:8000/ws/control/s1",
        "token": "t1",
    }
    assert leases.configs[0].mode == "transcribe"
    await pieces.aclose()


async def test_a_lease_ends_when_its_session_is_deleted() -> None:
    leases = FakeLeases()
    _, pieces = start(leases)
    await anext(pieces)
    leases.sessions.clear()
    assert await rest(pieces) == []
    assert leases.closed == []


async def test_a_lease_that_nobody_connects_to_ends_after_its_idle_time() -> None:
    leases = FakeLeases()
    _, pieces = start(leases, idle_seconds=0.3)
    await anext(pieces)
    assert await rest(pieces) == []
    assert leases.closed == [("s1", 4408)]


async def test_an_open_connection_keeps_a_lease_until_its_time_is_over() -> None:
    leases = FakeLeases()
    _, pieces = start(leases, idle_seconds=0.1, ttl_seconds=1)
    await anext(pieces)
    leases.sessions["s1"] = 1
    began_s = asyncio.get_running_loop().time()
    assert await rest(pieces) == []
    assert 0.7 < asyncio.get_running_loop().time() - began_s < 3
    assert leases.closed == [("s1", 4408)]


async def test_a_lease_tells_how_many_connections_are_open() -> None:
    leases, outlet = FakeLeases(), Outlet()
    job = SessionJob(SessionConfig(), ttl_s=5, idle_s=5)
    holding = asyncio.create_task(
        hold_lease(job, leases, outlet, Settings(), lambda: False, report_s=0.1)
    )
    await outlet.take()
    leases.sessions["s1"] = 2
    assert await outlet.take() == {"open_connections": 2}
    leases.sessions.clear()
    await holding


async def test_a_lease_outlives_a_piece_that_is_long_on_its_way() -> None:
    leases = FakeLeases()
    _, pieces = start(leases, ttl_seconds=1)
    await anext(pieces)
    await asyncio.sleep(0.1)
    assert "s1" in leases.sessions
    await pieces.aclose()


async def test_a_stopped_lease_ends_its_session() -> None:
    leases = FakeLeases()
    _, pieces = start(leases)
    await anext(pieces)
    await pieces.aclose()
    await until(lambda: leases.closed == [("s1", 1000)])


async def test_a_lease_on_a_worker_that_goes_away_fails_once_nobody_is_connected() -> None:
    leases = FakeLeases()
    handler, pieces = start(leases)
    await anext(pieces)
    leases.sessions["s1"] = 1
    handler.drain(30)
    await asyncio.sleep(0.3)
    assert leases.closed == []
    leases.sessions["s1"] = 0
    assert await rest(pieces) == [
        {"error": "the worker is stopping; ask for a session again (NOT_READY)"}
    ]
    assert leases.closed == [("s1", 1012)]


def test_on_runpod_the_addresses_are_those_of_the_proxy_and_of_the_public_port() -> None:
    environment = {
        "RUNPOD_POD_ID": "pod1",
        "PORT": "9000",
        "RUNPOD_PUBLIC_IP": "203.0.113.7",
        "RUNPOD_TCP_PORT_9000": "41234",
        "RUNPOD_TCP_PORT_8000": "1",
    }
    assert addresses(LeasedSession("s1"), read_settings(environment)) == {
        "session_id": "s1",
        "websocket_url": "wss://pod1-9000.proxy.runpod.net/ws/audio/s1",
        "control_url": "wss://pod1-9000.proxy.runpod.net/ws/control/s1",
        "direct_url": "ws://203.0.113.7:41234/ws/audio/s1",
    }


def test_a_pod_without_a_public_port_has_no_direct_address() -> None:
    settings = read_settings({"RUNPOD_POD_ID": "pod1", "RUNPOD_PUBLIC_IP": "203.0.113.7"})
    assert "direct_url" not in addresses(LeasedSession("s1"), settings)
