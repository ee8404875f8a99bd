"""When a client is pinged, and when its silence means that it has gone."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.held_vad import HeldVad
from tests.support.running_server import RunningServer
from tests.support.talker import Talker, talk
from voxtral_worker.server import connection, pulse
from voxtral_worker.server.pulse import PING_S, PONG_S, Pulse, Sign
from voxtral_worker.turns.vad import Vad

Start = Callable[..., RunningServer]


def test_a_client_is_pinged_and_given_up_when_it_sends_nothing() -> None:
    heard = Pulse(0.0)
    assert heard.look(PING_S - 1, 0, is_listening=True) is Sign.NOTHING
    assert heard.look(PING_S, 0, is_listening=True) is Sign.PING
    assert heard.look(PING_S + PONG_S - 1, 0, is_listening=True) is Sign.NOTHING
    assert heard.look(PING_S + PONG_S, 0, is_listening=True) is Sign.GONE


def test_any_byte_is_a_sign_of_life() -> None:
    heard = Pulse(0.0)
    for second in range(1, 600):
        sign = heard.look(float(second), second // 25, is_listening=True)
        assert sign is (Sign.PING if second % PING_S == 0 else Sign.NOTHING)


def test_silence_does_not_count_while_the_worker_does_not_listen() -> None:
    heard = Pulse(0.0)
    signs = {heard.look(float(second), 0, is_listening=False) for second in range(3600)}
    # Pings continue: clients that have limits of their own take them as a sign of life.
    assert signs == {Sign.NOTHING, Sign.PING}
    assert heard.look(3599.0 + PONG_S, 0, is_listening=True) is not Sign.GONE
    assert heard.look(3599.0 + PING_S + PONG_S, 0, is_listening=True) is Sign.GONE


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence of 0.2 s counts."""
    monkeypatch.setattr(pulse, "PING_S", 0.1)
    monkeypatch.setattr(pulse, "PONG_S", 0.1)
    monkeypatch.setattr(connection, "LOOK_S", 0.02)


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_sends_faster_than_it_is_heard_is_held_back_and_stays(
    start_server: Start, vad: Vad
) -> None:
    server = start_server(ready=False)
    held = HeldVad(vad)
    server.become_ready(vad=held)
    taken = 0

    async def push(talker: Talker) -> None:
        nonlocal taken
        for _ in range(600):
            await talker.send(bytes(64_000))
            taken += 64_000

    async with talk(server, ping_interval=None, compression=None) as talker:
        pushing = asyncio.create_task(push(talker))
        before = -1
        async with asyncio.timeout(60):
            while taken > before:
                before = taken
                await asyncio.sleep(0.5)
            # Ten times as long as silence may last.
            await asyncio.sleep(2.0)
            assert not pushing.done()
            held.opened.set()
            await pushing
            await talker.control("ping")
            await talker.until("control")
        (conversation,) = server.thread.service.sessions.registry.everyone()
        assert conversation.session.listening.audio_bytes_received == taken


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_has_gone_without_a_word_is_given_up(server: RunningServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.settings.port)
    writer.write(
        b"GET /ws/audio HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with asyncio.timeout(30):
        assert await reader.readuntil(b"\r\n\r\n")
        # It reads, but answers no ping.
        with pytest.raises(ConnectionResetError):
            while await reader.read(1024):
                pass
            raise ConnectionResetError
    writer.close()


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_only_answers_pings_stays(server: RunningServer) -> None:
    async with talk(server, ping_interval=None, compression=None) as talker:
        await talker.status("connected")
        await asyncio.sleep(2.0)
        await talker.control("ping")
        assert (await talker.until("control"))["control_type"] == "pong"
