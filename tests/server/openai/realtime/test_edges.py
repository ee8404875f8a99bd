"""The realtime socket where things end, fail, or are too many; a test controls the engine."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
import websockets
from openai import AsyncOpenAI
from websockets.datastructures import Headers

from tests.support.embedded_server import WAIT_S, silence, spoken
from tests.support.holding import holding
from tests.support.realtime_caller import Caller, manual, words
from tests.support.running_server import LOOPBACK, RunningServer
from tests.support.talker import Talker
from voxtral_worker.engine.request import Failed, Urgency
from voxtral_worker.errors import EngineFailure
from voxtral_worker.server.openai.realtime.dialect import MAX_EVENT_BYTES

Start = Callable[..., RunningServer]


@asynccontextmanager
async def calling(server: RunningServer) -> AsyncIterator[Caller]:
    client = AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0)
    async with client, client.realtime.connect(model="fake") as connection:
        caller = Caller(connection)
        await caller.until("session.created")
        yield caller


async def closed(caller: Caller) -> int:
    """Read to the end; the close code."""
    try:
        while True:
            await caller.next()
    except websockets.ConnectionClosed as error:
        assert error.rcvd is not None
        return error.rcvd.code


async def refused(
    server: RunningServer, query: str = "", **options: Any
) -> tuple[dict[str, Any], Headers]:
    """Why a socket is of no use, as its first event says before it is closed; and its headers."""
    address = f"{server.ws_url}/v1/realtime{query}"
    async with websockets.connect(address, **options) as socket, asyncio.timeout(WAIT_S):
        event = json.loads(await socket.recv())
        with pytest.raises(websockets.ConnectionClosed) as closing:
            await socket.recv()
        assert closing.value.rcvd is not None
        assert closing.value.rcvd.code == 1008
        assert socket.response is not None
        headers = socket.response.headers
    assert event["type"] == "error"
    return event["error"], headers


async def ask(caller: Caller, text: str = "hello") -> None:
    await caller.say(text)
    await caller.connection.response.create()


async def test_a_worker_without_room_or_readiness_refuses_the_socket(start_server: Start) -> None:
    error, _ = await refused(start_server(ready=False))
    assert error["code"] == "not_ready"
    server = start_server(max_sessions=1)
    async with calling(server):
        error, headers = await refused(server)
    assert (error["code"], headers["Retry-After"]) == ("at_capacity", "5")
    assert server.thread.health()["active_sessions"] <= 1


async def test_sockets_count_as_sessions_created(start_server: Start) -> None:
    server = start_server(
        rate_limit_enabled=True, rate_limit_sessions_per_minute=1, trusted_proxies=LOOPBACK
    )
    async with calling(server):
        error, headers = await refused(server)
    assert error["code"] == "rate_limit_exceeded"
    assert headers["X-RateLimit-Remaining"] == "0"
    assert 1 <= int(headers["Retry-After"]) <= 60


async def test_openais_client_reads_why_it_is_refused(start_server: Start) -> None:
    server = start_server(api_keys=("the-key-of-the-house",))
    client = AsyncOpenAI(api_key="another", base_url=f"{server.url}/v1", max_retries=0)
    async with client, client.realtime.connect(model="fake") as connection:
        caller = Caller(connection)
        assert (await caller.error()).code == "invalid_api_key"
        assert await closed(caller) == 1008


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("?model=gpt-realtime", "model", "model_not_found"),
        ("?intent=singing", "intent", "invalid_value"),
        ("?call_id=c1", "call_id", "unsupported_parameter"),
    ],
)
async def test_what_cannot_be_had_is_told_on_the_socket(
    server: RunningServer, query: str, param: str, code: str
) -> None:
    error, _ = await refused(server, query)
    assert (error["param"], error["code"]) == (param, code)


async def test_a_refused_client_that_goes_on_talking_is_closed(server: RunningServer) -> None:
    address = f"{server.ws_url}/v1/realtime?model=gpt-realtime"
    async with websockets.connect(address) as socket, asyncio.timeout(WAIT_S):
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                await socket.send("x" * 1000)
    assert server.thread.health()["active_sessions"] == 0


async def test_what_is_no_socket_or_of_a_foreign_page_is_refused(start_server: Start) -> None:
    server = start_server(allowed_origins=("https://app.example",))
    url = f"{server.url}/v1/realtime"
    async with aiohttp.ClientSession() as http:
        async with http.get(url) as response:
            assert response.status == 400
            assert "WebSocket" in (await response.json())["error"]["message"]
        async with http.get(f"{url}?intent=singing") as response:
            assert (await response.json())["error"]["param"] == "intent"
    error, _ = await refused(server, origin="https://evil.example")
    assert (error["type"], error["code"]) == ("permission_error", "forbidden")


async def test_audio_over_the_limit_is_told_with_its_event(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True, rate_limit_audio_bytes_per_second=1000)
    async with calling(server) as caller:
        audio = base64.b64encode(silence(0.1)).decode()
        # The first passes, as larger than the whole limit, and counts for longer.
        for event_id in ("e0", "e1"):
            await caller.connection.input_audio_buffer.append(audio=audio, event_id=event_id)
        error = await caller.error()
        assert (error.code, error.event_id) == ("rate_limit_exceeded", "e1")
        for _ in range(201):
            await caller.connection.input_audio_buffer.append(audio=audio)
        assert await closed(caller) == 4429


async def test_an_event_of_the_documented_size_always_fits(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True)
    async with calling(server) as caller:
        await caller.update(audio=manual())
        audio = base64.b64encode(silence(30)).decode()
        assert 1_900_000 < len(audio) < MAX_EVENT_BYTES
        await caller.connection.input_audio_buffer.append(audio=audio)
        await caller.connection.input_audio_buffer.append(audio="")
        await caller.connection.input_audio_buffer.commit()
        await caller.until("input_audio_buffer.committed")
    assert "error" not in caller.kinds()
    async with calling(server) as caller:
        content: Any = [{"type": "input_audio", "audio": audio}]
        made: Any = {"type": "message", "role": "user", "content": content}
        await caller.connection.conversation.item.create(item=made)
        await caller.until("conversation.item.done")
    assert "error" not in caller.kinds()


async def test_audio_that_looks_like_something_else_is_told_once(server: RunningServer) -> None:
    for turns in ({"type": "server_vad"}, None):
        async with calling(server) as caller:
            await caller.update(audio={"input": {"turn_detection": turns}})
            samples = np.frombuffer(spoken("stop-the-music"), "<i2") / 32768
            await caller.append(samples.astype("<f4").tobytes())
            error = await caller.error()
            assert (error.code, error.param) == ("audio_format_error", None)
            assert "32-bit float" in error.message
            await caller.append(samples.astype("<f4").tobytes())
            await caller.connection.input_audio_buffer.clear()
            await caller.until("input_audio_buffer.cleared")
        assert caller.kinds().count("error") == 1


async def test_a_session_that_is_quiet_for_too_long_ends(start_server: Start) -> None:
    server = start_server(session_idle_timeout_seconds=0.3)
    async with calling(server) as caller:
        assert (await caller.error()).code == "session_expired"
        assert await closed(caller) == 4408


async def test_a_draining_worker_says_so_and_closes(server: RunningServer) -> None:
    async with calling(server) as caller:
        drain = asyncio.to_thread(server.thread.drain, 0.1)
        assert (await asyncio.gather(caller.error(), drain))[0].code == "not_ready"
        assert await closed(caller) == 1012


async def test_the_session_is_over_when_its_socket_is_closed(server: RunningServer) -> None:
    async with calling(server) as caller:
        session_id = caller.seen[0].session.id.removeprefix("sess_")
        async with websockets.connect(f"{server.ws_url}/ws/audio/{session_id}") as socket:
            assert await Talker(socket).closed() == 4404
        await ask(caller)
        await caller.answer()
    async with asyncio.timeout(WAIT_S):
        while session_id not in server.engine.forgotten:  # noqa: ASYNC110 - it knows no events
            await asyncio.sleep(0.01)
    assert len(server.thread.service.sessions) == 0


async def test_a_failure_of_the_engine_fails_the_response(server: RunningServer) -> None:
    async with calling(server) as caller:
        with holding(server.engine):
            await ask(caller)
            await caller.until("response.output_text.delta")
        server.engine.held[0].report(Failed(EngineFailure("the device is lost")))
        response = await caller.answer()
        assert response.status == "failed"
        assert response.status_details.error.message == "the device is lost"
        await ask(caller)
        assert words(await caller.answer()) == "You said so."


async def test_a_transcript_that_fails_is_told_with_its_item(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.update(audio={"input": {"turn_detection": None, "transcription": {}}})
        server.engine.refuses = EngineFailure("the device is lost")
        await caller.append(spoken("stop-the-music"))
        await caller.connection.input_audio_buffer.commit()
        item_id = (await caller.until("input_audio_buffer.committed")).item_id
        failed = await caller.until("conversation.item.input_audio_transcription.failed")
    assert failed.item_id == item_id
    assert failed.error.message == "the device is lost"


async def test_a_transcript_may_be_as_long_as_its_audio_needs(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.update(audio={"input": {"turn_detection": None, "transcription": {}}})
        for _ in range(4):
            await caller.append(silence(16))
        await caller.connection.input_audio_buffer.commit()
        await caller.until("conversation.item.input_audio_transcription.completed")
    (request,) = server.engine.requests
    assert request.sampling.max_tokens == 3 * 512


async def test_a_response_that_is_not_interrupted_is_followed_by_the_next(
    server: RunningServer,
) -> None:
    async with calling(server) as caller:
        turns = {"type": "server_vad", "interrupt_response": False}
        await caller.update(audio={"input": {"turn_detection": turns}})
        with holding(server.engine):
            await ask(caller)
            await caller.until("response.output_text.delta")
            await caller.append(spoken("stop-the-music") + silence(1))
            await caller.until("input_audio_buffer.committed")
        server.engine.finish(server.engine.held[0], ("said so.",))
        first, second = await caller.answer(), await caller.answer()
    assert [words(first), words(second)] == ["You said so.", "You said so."]
    kinds = caller.kinds()
    ends = [place for place, kind in enumerate(kinds) if kind == "response.done"]
    begins = [place for place, kind in enumerate(kinds) if kind == "response.created"]
    assert begins[0] < ends[0] < begins[1] < ends[1]


async def test_a_full_buffer_says_so_and_can_be_committed(start_server: Start) -> None:
    server = start_server(max_turn_seconds=1.0)
    async with calling(server) as caller:
        await caller.update(audio=manual())
        await caller.append(silence(0.8))
        await caller.append(silence(0.4))
        assert (await caller.error()).code == "payload_too_large"
        await caller.connection.input_audio_buffer.commit()
        await caller.until("input_audio_buffer.committed")
        await caller.append(silence(0.05))
        await caller.connection.input_audio_buffer.commit()
        assert (await caller.error()).code == "input_audio_buffer_commit_empty"


async def test_a_new_format_or_kind_of_turns_begins_anew(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.append(spoken("stop-the-music"))
        await caller.until("input_audio_buffer.speech_started")
        await caller.update(audio=manual())
        await caller.connection.input_audio_buffer.commit()
        assert (await caller.error()).code == "input_audio_buffer_commit_empty"
        await caller.append(silence(0.5))
        await caller.update(audio={"input": {"format": {"type": "audio/pcma"}}})
        await caller.connection.input_audio_buffer.commit()
        assert (await caller.error()).code == "input_audio_buffer_commit_empty"
    # It was guessed at; what was guessed was never said.
    assert {request.urgency for request in server.engine.requests} <= {Urgency.SPECULATION}


async def test_only_so_much_waits_for_an_answer(server: RunningServer) -> None:
    async with calling(server) as caller:
        for _ in range(65):
            await caller.say("more")
        assert "64 items" in (await caller.error()).message
        await caller.say("twice")
        assert "64 items" in (await caller.error()).message
        await caller.connection.response.create()
        assert (await caller.answer()).status == "completed"
    (request,) = server.engine.requests
    assert len(request.conversation.user.parts) == 64 + 63


async def test_an_events_size_has_an_end(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.connection.send({"type": "session.update", "session": {"x": "a" * (3 << 20)}})
        assert (await caller.error()).code == "payload_too_large"


async def send_twice(caller: Caller, item: dict[str, Any]) -> None:
    for _ in range(2):
        await caller.connection.conversation.item.create(item=item)


async def test_an_items_id_is_its_own(server: RunningServer) -> None:
    async with calling(server) as caller:
        content = [{"type": "input_text", "text": "hello"}]
        item = {"id": "mine", "type": "message", "role": "user", "content": content}
        await send_twice(caller, item)
        assert (await caller.until("conversation.item.done")).item.id == "mine"
        assert (await caller.error()).param == "item.id"
