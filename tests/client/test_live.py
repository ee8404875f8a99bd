"""A live session of the Python client: several turns, texts and controls, and cut connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from tests.client.test_client import audio
from tests.support.cuttable_line import CuttableLine
from tests.support.held_vad import HeldVad
from tests.support.running_server import RunningServer
from voxtral_worker.client import (
    Delta,
    Event,
    Failure,
    Pong,
    Response,
    Retry,
    Stats,
    Status,
    VoxtralClient,
    VoxtralError,
    flow,
)
from voxtral_worker.client import line as lines
from voxtral_worker.client.journal import MOST_UNTAKEN_BYTES
from voxtral_worker.client.rest import Rest
from voxtral_worker.turns.vad import Vad

Start = Callable[..., RunningServer]
WAIT_S = 60
SAID = "You said so."


async def until(client: VoxtralClient, is_last: Callable[[Event], bool]) -> list[Event]:
    """The events up to one, and including it."""
    seen: list[Event] = []
    async with asyncio.timeout(WAIT_S), aclosing(client.events()) as events:
        async for event in events:
            seen.append(event)
            if is_last(event):
                break
    return seen


def status(name: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Status) and event.status == name


def answers(number: int) -> Callable[[Event], bool]:
    """Whether so many responses have come."""
    seen = 0

    def is_last(event: Event) -> bool:
        nonlocal seen
        seen += isinstance(event, Response)
        return seen == number

    return is_last


def said(events: list[Event]) -> list[str | None]:
    """Of each response, the text that it answers."""
    return [event.request_id for event in events if isinstance(event, Response)]


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.01)


async def say(client: VoxtralClient) -> None:
    data = audio()
    for start in range(0, len(data), 3200):
        await client.send_audio(data[start : start + 3200])
        await asyncio.sleep(0.01)


@asynccontextmanager
async def on_a_line(server: RunningServer) -> AsyncIterator[tuple[CuttableLine, VoxtralClient]]:
    """A client behind a line that can be cut, which has read all that came so far."""
    line = CuttableLine(server.settings.port)
    retry = Retry(first_ms=1)
    async with VoxtralClient(await line.listen(), retry=retry, silence_ms=300) as client:
        await until(client, status("resumed"))
        yield line, client
    await line.close()


async def test_several_spoken_turns_and_a_text_are_one_session(start_server: Start) -> None:
    server = start_server()
    async with VoxtralClient(server.url) as client:
        for _ in range(2):
            await say(client)
            await client.end_turn()
            assert said(await until(client, answers(1))) == [None]
        request_id = await client.send_text("hello")
        assert said(await until(client, answers(1))) == [request_id]
        assert await client.send_text("again", "my own") == "my own"
        assert said(await until(client, answers(1))) == ["my own"]
        assert (await client.session())["session_id"] == client.session_id
    assert len(server.engine.requests[-1].conversation.history) == 3


async def test_a_live_source_speaks_while_events_are_read(start_server: Start) -> None:
    server = start_server()
    async with VoxtralClient(server.url, silence_ms=300, barge_in=False) as client:

        async def source() -> None:
            for _ in range(2):
                await say(client)
                for _ in range(8):
                    await client.send_audio(bytes(3200))

        speaking = asyncio.create_task(source())
        events = await until(client, answers(2))
        await speaking
    assert said(events) == [None, None]


async def test_a_response_is_cancelled(start_server: Start) -> None:
    server = start_server()
    server.engine.holds = True
    async with VoxtralClient(server.url) as client:
        await client.send_text("hello", "a")
        await until(client, lambda event: isinstance(event, Delta))
        await client.cancel()
        events = await until(client, answers(1))
    assert [event.status for event in events if isinstance(event, Status)] == ["cancelled"]
    assert isinstance(events[-1], Response)
    assert events[-1].finish_reason == "interrupted"


async def test_every_control_is_answered(start_server: Start) -> None:
    async with VoxtralClient(start_server().url) as client:
        await client.update(silence_ms=300, stop=["."])
        [*_, updated] = await until(client, status("config_updated"))
        assert updated.message["config"]["silence_ms"] == 300
        await client.update(silence_ms=5)
        [*_, refused] = await until(client, lambda event: isinstance(event, Failure))
        assert "silence_ms is 5" in refused.message["error"]
        await client.clear_history()
        await until(client, status("history_cleared"))
        await client.end_turn()
        await until(client, status("no_speech"))
        await client.ping()
        await until(client, lambda event: isinstance(event, Pong))
        await client.get_stats()
        await until(client, lambda event: isinstance(event, Stats))
        await client.send_text(" ", "empty")
        [*_, refused] = await until(client, lambda event: isinstance(event, Failure))
        assert refused.request_id == "empty"


async def test_a_text_that_a_lost_connection_took_is_sent_again_once(start_server: Start) -> None:
    server = start_server()
    async with on_a_line(server) as (line, client):
        line.cut()
        await client.send_text("hello", "a")
        await client.send_text("and again", "b")
        assert said(await until(client, answers(2))) == ["a", "b"]
        line.cut()
        await client.send_text("the end", "c")
        assert said(await until(client, answers(1))) == ["c"]
    texts = [request.conversation.user.parts for request in server.engine.requests]
    assert texts == [("hello",), ("and again",), ("the end",)]


async def test_a_text_that_was_taken_is_not_sent_again(start_server: Start) -> None:
    """Nothing of it came back before the connection was lost."""
    server = start_server()
    async with on_a_line(server) as (line, client):
        line.hold_back()
        await client.send_text("hello", "a")
        await eventually(lambda: len(server.engine.requests) == 1)
        line.cut()
        assert said(await until(client, answers(1))) == ["a"]
        await client.send_text("the end", "b")
        assert said(await until(client, answers(1))) == ["b"]
    assert len(server.engine.requests) == 2


async def test_audio_and_texts_around_a_cut_come_once_and_in_order(start_server: Start) -> None:
    server = start_server()
    async with on_a_line(server) as (line, client):
        await client.update(barge_in=False)
        await say(client)
        await client.end_turn()
        line.cut()
        await client.send_text("first", "a")
        await say(client)
        await client.end_turn()
        await client.send_text("second", "b")
        events = await until(client, answers(4))
        line.cut()
        [*_, resumed] = await until(client, status("resumed"))
    assert said(events) == [None, "a", None, "b"]
    assert resumed.message["audio_bytes_received"] == 2 * len(audio())
    assert len(server.engine.requests) == 4


async def test_a_text_whose_fate_is_not_known_is_told(start_server: Start) -> None:
    """The worker holds 1,024 messages: nothing of the first text is left of them."""
    server = start_server()
    server.engine.words = ("a ",) * 1100
    async with on_a_line(server) as (line, client):
        line.hold_back()
        await client.send_text("hello", "a")
        await client.send_text("again", "b")
        await eventually(lambda: len(server.engine.requests) == 2)
        line.cut()
        events = await until(client, lambda event: isinstance(event, Failure))
        assert (events[-1].message["code"], events[-1].request_id) == ("MESSAGES_MISSED", "a")
        assert said(events) == ["b"]
    assert len(server.engine.requests) == 2


async def test_events_end_when_the_client_is_closed(start_server: Start) -> None:
    client = VoxtralClient(start_server().url)
    async with client:
        reading = asyncio.create_task(until(client, status("never")))
        await client.send_text("hello")
        await asyncio.sleep(0.05)
    assert not status("never")((await reading)[-1])
    with pytest.raises(VoxtralError, match="the session is closed"):
        await client.send_text("hello")


async def test_a_session_that_the_worker_has_ended_takes_nothing_more(start_server: Start) -> None:
    server = start_server()
    async with VoxtralClient(server.url) as client:
        await Rest(server.url, None).call("DELETE", f"/session/{client.session_id}")
        with pytest.raises(VoxtralError, match="the session was ended"):
            await until(client, status("never"))
        with pytest.raises(VoxtralError, match="the session was ended"):
            await client.send_text("hello")


async def test_events_are_read_in_one_place_at_a_time(start_server: Start) -> None:
    async with VoxtralClient(start_server().url) as client:
        await until(client, status("resumed"))
        readers = [asyncio.create_task(until(client, status("never"))) for _ in range(2)]
        done, waiting = await asyncio.wait(readers, timeout=WAIT_S, return_when="FIRST_COMPLETED")
        assert (len(done), len(waiting)) == (1, 1)
        with pytest.raises(VoxtralError, match="being read already"):
            await done.pop()
        waiting.pop().cancel()


async def test_audio_without_a_connection_is_held_up_to_a_limit(start_server: Start) -> None:
    async with on_a_line(start_server()) as (line, client):
        line.cut()
        # The events are not read, so the loss is noticed when something is sent.
        async with asyncio.timeout(WAIT_S):
            while client.is_connected:
                await client.ping()
                await asyncio.sleep(0.01)
        for _ in range(8):
            await client.send_audio(bytes(1 << 20))
        with pytest.raises(VoxtralError, match="no more audio can be held: read the events"):
            for _ in range(2):
                await client.send_audio(bytes(1 << 20))
        with pytest.raises(VoxtralError, match="1048577 bytes, but may have 1048576"):
            await client.send_audio(bytes((1 << 20) + 1))


async def test_a_client_that_waits_for_its_worker_can_be_closed(start_server: Start) -> None:
    line = CuttableLine(start_server().settings.port)
    client = VoxtralClient(await line.listen(), retry=Retry(first_ms=100))
    async with client:
        await until(client, status("resumed"))
        reading = asyncio.create_task(until(client, status("never")))
        await line.close()
        await eventually(lambda: not client.is_connected)
    assert await asyncio.wait_for(reading, WAIT_S) == []


async def test_a_source_that_failed_while_the_worker_was_away_is_told(start_server: Start) -> None:
    """Its own error says more than the worker's absence."""
    line = CuttableLine(start_server().settings.port)

    async def failing() -> AsyncIterator[bytes]:
        yield bytes(3200)
        await line.close()
        await eventually(lambda: not client.is_connected)
        raise OSError("no microphone")

    async with VoxtralClient(await line.listen(), retry=Retry(most=2, first_ms=100)) as client:
        with pytest.raises(OSError, match="no microphone"):
            async for _ in client.stream(failing()):
                pass


async def test_a_reader_may_leave_between_events_and_come_back(start_server: Start) -> None:
    server = start_server()
    async with on_a_line(server) as (line, client):
        await client.send_text("hello", "a")
        seen: list[Event] = []
        while not (seen and isinstance(seen[-1], Response)):
            seen += await until(client, lambda _: True)
            if len(seen) == 2:
                line.cut()
        numbers = [event.message["seq"] for event in seen if "seq" in event.message]
    assert numbers == [1, 2, 3, 4, 5]


async def test_statistics_asked_for_before_the_end_do_not_end_a_stream(start_server: Start) -> None:
    server = start_server()
    server.engine.holds = True

    async def spoken() -> AsyncIterator[bytes]:
        yield audio()

    async def answer() -> None:
        # The second request is the first one after the end of the audio.
        await eventually(lambda: client._line.stats_asked == 2)
        line.let_through()
        await eventually(lambda: bool(server.engine.held))
        server.engine.finish(server.engine.held[0], server.engine.words)

    async with on_a_line(server) as (line, client):
        line.hold_back()
        await client.get_stats()
        answering = asyncio.create_task(answer())
        async with asyncio.timeout(WAIT_S):
            events = [event async for event in client.stream(spoken())]
        assert len(said(events)) == 1
        await answering


@pytest.mark.parametrize("request_id", ["x" * 257, "\ud800", "a\nb"])
async def test_a_name_that_the_worker_would_not_send_back_is_refused(
    start_server: Start, request_id: str
) -> None:
    async with on_a_line(start_server()) as (line, client):
        with pytest.raises(VoxtralError, match="request_id .* at most 256 characters"):
            await client.send_text("hello", request_id)
        with pytest.raises(VoxtralError, match="a message has .* may have 1048576"):
            await client.send_text("x" * (1 << 20))
        await client.send_text("x" * 32_769, "long")
        [*_, refused] = await until(client, lambda event: isinstance(event, Failure))
        assert refused.request_id == "long"
        # It is over, so it is not sent again.
        line.cut()
        await client.send_text("hello", "next")
        events = await until(client, answers(1))
        assert said(events) == ["next"]
        assert not any(isinstance(event, Failure) for event in events)


async def test_audio_waits_until_the_worker_has_taken_what_is_on_its_way(
    start_server: Start, vad: Vad
) -> None:
    """However fast a recording is sent, a cut connection loses no more than the client holds."""
    server = start_server(ready=False)
    held = HeldVad(vad)
    server.become_ready(vad=held)
    sent = 0

    async def recording() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(400):
            yield bytes(32_000)
            sent += 32_000

    async with on_a_line(server) as (line, client):
        seen: list[Event] = []

        async def stream() -> None:
            seen.extend([event async for event in client.stream(recording())])

        streaming = asyncio.create_task(stream())
        await eventually(lambda: sent + 64_000 > MOST_UNTAKEN_BYTES)
        # Held back: the lines between the two would take much more.
        for _ in range(20):
            await client.session()
        assert sent <= MOST_UNTAKEN_BYTES
        line.cut()
        held.opened.set()
        async with asyncio.timeout(WAIT_S):
            await streaming
        stats = (await client.session())["stats"]
    assert stats["audio_bytes_received"] == sent == 400 * 32_000
    assert not [event for event in seen if isinstance(event, Pong)]


async def test_pings_of_the_client_itself_are_not_shown(start_server: Start) -> None:
    async with VoxtralClient(start_server().url) as client:
        for _ in range(10):
            await client.send_audio(bytes(64_000))
        await client.ping()
        await client.send_audio(bytes(300_000))
        await client.get_stats()
        events = await until(client, lambda event: isinstance(event, Stats))
    assert len([event for event in events if isinstance(event, Pong)]) == 1


async def test_a_worker_that_takes_nothing_is_told_of_in_time(
    start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "ROOM_TIMEOUT_S", 0.2)
    monkeypatch.setattr(flow, "LOOK_S", 0.1)
    async with VoxtralClient(start_server().url) as client:
        with pytest.raises(VoxtralError, match=r"taken no audio for 0.2 s: read the events"):
            for _ in range(3):
                await client.send_audio(bytes(1 << 20))


async def test_a_resume_waits_as_long_as_the_worker_sends_heartbeats(
    start_server: Start, vad: Vad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker first processes the audio that it has already read, which may take a while."""
    monkeypatch.setattr(lines, "RESUME_TIMEOUT_S", 2.0)
    server = start_server(ready=False, heartbeat_interval_seconds=0.1)
    held = HeldVad(vad)
    server.become_ready(vad=held)
    line = CuttableLine(server.settings.port)
    # Without retries: the first new connection has to resume the session.
    async with VoxtralClient(await line.listen(), retry=Retry(most=0)) as client:
        await until(client, status("resumed"))
        await client.send_audio(bytes(64_000))
        await client.send_audio(bytes(64_000))
        resuming = asyncio.create_task(until(client, status("resumed")))
        await eventually(lambda: bool(held.asked))
        line.cut()
        await eventually(lambda: not client.is_connected)
        await asyncio.sleep(5.0)
        assert not resuming.done()
        held.opened.set()
        await resuming
        assert (await client.session())["stats"]["audio_bytes_received"] == 128_000
    await line.close()


async def test_what_was_held_is_sent_again_within_the_limit_on_audio(start_server: Start) -> None:
    async with on_a_line(start_server(rate_limit_enabled=True)) as (line, client):
        line.cut()
        async with asyncio.timeout(WAIT_S):
            while client.is_connected:
                await client.ping()
                await asyncio.sleep(0.01)
        for _ in range(60):
            await client.send_audio(bytes(32_000))
        await client.send_text("after the audio", "a")
        await until(client, answers(1))
        assert (await client.session())["stats"]["audio_bytes_received"] == 60 * 32_000
