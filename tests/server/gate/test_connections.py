"""How many connections may be open, and how long a silent one may."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.metric_values import value_of
from tests.support.ports import free_port
from tests.support.running_server import RunningServer
from voxtral_worker import metrics
from voxtral_worker.server import rest
from voxtral_worker.server.gate.access import ClientAddresses
from voxtral_worker.server.gate.connections import Connections, default_connections
from voxtral_worker.server.thread import ServerThread
from voxtral_worker.settings import Settings

WAIT_S = 60.0
PING = b"GET /ping HTTP/1.1\r\nHost: worker\r\n\r\n"


def refused(reason: str) -> float:
    return float(value_of(metrics.connections_refused.labels(reason)))


@asynccontextmanager
async def opened(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def was_closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read(1) == b""
        except ConnectionResetError:
            return True


async def ping(port: int) -> bytes:
    """The status line, or nothing where the connection is refused."""
    async with opened(port) as (reader, writer), asyncio.timeout(WAIT_S):
        writer.write(PING)
        try:
            return await reader.readline()
        except ConnectionResetError:
            return b""


async def test_a_connection_too_many_is_closed_and_a_place_given_back_is_used_again(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server(max_connections=3, port_health=free_port())
    port = server.settings.port
    before = refused("all")
    async with opened(port), opened(port):
        async with opened(port) as (reader, writer):
            async with opened(port) as (late, _):
                assert await was_closed(late)
            assert refused("all") == before + 1
            writer.write(PING)
            assert b" 200 " in await reader.readline()
            # Who asks whether the worker lives is answered at the other port.
            assert server.settings.port_health is not None
            assert b" 200 " in await ping(server.settings.port_health)
        async with asyncio.timeout(WAIT_S):
            while b" 200 " not in await ping(port):
                await asyncio.sleep(0.02)


@pytest.fixture
def impatient() -> Iterator[int]:
    """The port of a server that waits 0.2 s for a first request."""
    settings = Settings(host="127.0.0.1", port=free_port())
    thread = ServerThread(settings, first_request_s=0.2)
    thread.start()
    yield settings.port
    thread.stop()


@pytest.mark.parametrize("sent", [b"", b"GET /ping HTTP/1.1\r\n", b"\r\n\r\n"])
async def test_a_connection_that_sends_no_whole_request_in_time_is_closed(
    impatient: int, sent: bytes
) -> None:
    before = refused("silent")
    async with opened(impatient) as (reader, writer):
        writer.write(sent)
        assert await was_closed(reader)
    assert refused("silent") == before + 1


async def test_a_connection_that_has_asked_once_may_stay(impatient: int) -> None:
    async with opened(impatient) as (reader, writer):
        for _ in range(2):
            writer.write(PING)
            async with asyncio.timeout(WAIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            assert b" 204 " in head.splitlines()[0]
            await asyncio.sleep(0.5)


def connections(most: int = 1000, **settings: Any) -> Connections:
    chosen = Settings(**settings)
    return Connections(ClientAddresses(chosen), most, chosen.max_connections_per_address)


def test_an_address_may_have_so_many_connections_and_another_its_own() -> None:
    table = connections(max_connections_per_address=2)
    before = refused("address")
    entered = [table.enter("203.0.113.7") for _ in range(3)]
    assert entered == [True, True, False]
    assert refused("address") == before + 1
    assert table.enter("203.0.113.8")
    table.leave("203.0.113.7")
    assert table.enter("203.0.113.7")


def test_addresses_of_one_ipv6_network_count_together() -> None:
    table = connections(max_connections_per_address=2)
    assert table.enter("2001:db8::1") and table.enter("2001:db8::2")
    assert not table.enter("2001:db8::3")
    assert table.enter("2001:db8:0:1::1")


@pytest.mark.parametrize("peer", ["10.1.2.3", "127.0.0.1", "::1"])
def test_proxies_and_this_machine_have_no_limit_of_their_own(peer: str) -> None:
    table = connections(
        most=3, max_connections_per_address=1, trusted_proxies=(ip_network("10.0.0.0/8"),)
    )
    assert [table.enter(peer) for _ in range(4)] == [True, True, True, False]


def test_half_of_the_descriptors_less_some_are_for_connections() -> None:
    assert default_connections(1024) == 448
    assert default_connections(100) == 32
    assert default_connections(resource.RLIM_INFINITY) > 10_000


def test_a_server_takes_the_descriptors_that_it_may_have(
    start_server: Callable[..., RunningServer],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        start_server()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_body_that_does_not_come_is_not_waited_for(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "BODY_TIMEOUT_S", 0.2)

    async def nothing() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(WAIT_S)

    url = f"{server.url}/session/create"
    async with (
        ClientSession() as http,
        asyncio.timeout(WAIT_S / 2),
        http.post(url, data=nothing()) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["code"] == "INVALID_REQUEST"
