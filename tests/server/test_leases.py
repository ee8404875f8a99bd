"""Sessions held from another loop."""

from collections.abc import Callable

from tests.server.running import RunningServer
from tests.server.talking import talk
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
