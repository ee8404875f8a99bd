"""Sessions held from another loop."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.support.job_fakes import until
from tests.support.running_server import RunningServer
from tests.support.talker import talk
from voxtral_worker.server.leases import SessionLeases
from voxtral_worker.sessions.config import SessionConfig

Start = Callable[..., RunningServer]


async def test_a_lease_is_a_session_that_others_talk_to(server: RunningServer) -> None:
    leases = SessionLeases(server.thread)
    leased = await leases.create(SessionConfig(mode="transcribe"))
    assert leased.token is None
    assert await leases.exists(leased.session_id)
    assert await leases.open_connections(leased.session_id) == 0
    async with talk(server, leased.session_id) as talker:
        await talker.status("connected")
        assert await leases.open_connections(leased.session_id) == 1
        await leases.close(leased.session_id, 4408)
        assert await talker.closed() == 4408
    assert not await leases.exists(leased.session_id)
    assert await leases.open_connections(leased.session_id) == 0
    await leases.close(leased.session_id, 4408)


async def test_a_lease_has_a_token_where_credentials_are_needed(start_server: Start) -> None:
    server = start_server(api_keys=("key",))
    leased = await SessionLeases(server.thread).create(SessionConfig())
    assert leased.token
    async with talk(server, leased.session_id, query=f"?token={leased.token}") as talker:
        await talker.status("connected")


async def until_no_session_is_left(server: RunningServer) -> None:
    await until(lambda: not server.thread.health()["active_sessions"])


def wait_for_a_session(server: RunningServer) -> None:
    """Keeps the loop of its caller from running at the same time."""
    last_s = time.monotonic() + 10
    while not server.thread.health()["active_sessions"] and time.monotonic() < last_s:
        time.sleep(0.001)


async def test_who_leaves_while_a_session_is_made_leaves_none_behind(server: RunningServer) -> None:
    leases = SessionLeases(server.thread)
    for turns_of_the_loop in range(40):
        making = asyncio.create_task(leases.create(SessionConfig()))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0 if turns_of_the_loop < 20 else 0.0005)
        if not making.cancel():
            await leases.close((await making).session_id, 1000)
            continue
        with pytest.raises(asyncio.CancelledError):
            await making
    await until_no_session_is_left(server)


async def test_who_leaves_as_the_session_is_there_leaves_none_behind(server: RunningServer) -> None:
    making = asyncio.create_task(SessionLeases(server.thread).create(SessionConfig()))
    await asyncio.sleep(0)
    wait_for_a_session(server)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await until_no_session_is_left(server)
