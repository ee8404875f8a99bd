"""The two WebSockets, message by message."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
import websockets

from tests.support.metric_values import value_of
from tests.support.running_server import LOOPBACK, RunningServer
from tests.support.talker import Talker, create, open_socket, talk
from voxtral_worker import metrics
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.errors import AtCapacity, EngineFailure
from voxtral_worker.turns.vad import Vad

Start = Callable[..., RunningServer]
CHUNK = 3200


async def speak(talker: Talker, audio: bytes) -> None:
    for start in range(0, len(audio), CHUNK):
        await talker.send(audio[start : start + CHUNK])


async def test_the_first_message_says_who_is_connected(server: RunningServer) -> None:
    session = await create(server.url)
    async with talk(server, session["session_id"]) as talker:
        message = await talker.next()
    assert message["type"] == "status"
    assert message["status"] == "connected"
    assert message["session_id"] == session["session_id"]
    assert message["client_id"].startswith("client_")
    assert message["server_time"] > 1_600_000_000
    assert "seq" not in message


async def test_a_text_is_answered_with_deltas_and_a_response(server: RunningServer) -> None:
    async with talk(server) as talker:
        await talker.text("Hello, how are you today?", timestamp=1640995200.0, request_id="r1")
        response = await talker.until("text_response")
    assert response["text"] == "You said so."
    assert response["source"] == "text"
    assert response["finish_reason"] == "stop"
    assert response["request_id"] == "r1"
    assert response["usage"] == {"prompt_tokens": 10, "completion_tokens": 3, "cached_tokens": 4}
    deltas = [m for m in talker.seen if m["type"] == "text_delta"]
    assert "".join(m["text"] for m in deltas) == response["text"]
    numbers = [m["seq"] for m in talker.seen if "seq" in m]
    assert numbers == list(range(1, len(numbers) + 1))
    metrics = response["metrics"]
    assert metrics["endpoint_ms"] == metrics["speech_ms"] == 0
    stages = metrics["queue_ms"] + metrics["encode_ms"] + metrics["prefill_ms"]
    assert abs(stages - metrics["first_token_ms"]) < 2 or stages < 10


async def test_speech_becomes_one_turn_with_its_statuses_in_order(
    server: RunningServer, clip: bytes
) -> None:
    async with talk(server) as talker:
        await speak(talker, clip)
        response = await talker.until("text_response")
    statuses = [m["status"] for m in talker.seen if m["type"] == "status"]
    assert statuses == ["connected", "speech_started", "speech_ended", "processing"]
    assert response["source"] == "audio"
    assert response["metrics"]["speech_ms"] > 300
    (request,) = server.engine.requests
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert 0.5 < len(audio.samples) / 16_000 < len(clip) / 32_000
    assert request.conversation.transcribe is False


async def test_turns_do_not_depend_on_how_audio_is_chunked(
    server: RunningServer, clip: bytes
) -> None:
    for size in (2, 3200, len(clip)):
        data = clip if size > 2 else clip[: len(clip) // 2 * 2]
        async with talk(server) as talker:
            step = size if size > 2 else 334
            for start in range(0, len(data), step):
                await talker.send(data[start : start + step])
            await talker.until("text_response")
    sounds = [request.conversation.user.parts[0] for request in server.engine.requests]
    lengths = {len(sound.samples) for sound in sounds if isinstance(sound, Audio)}
    assert len(lengths) == 1


async def test_transcribe_mode_asks_for_a_greedy_transcript(
    server: RunningServer, clip: bytes
) -> None:
    config = {"mode": "transcribe", "language": "en"}
    session = await create(server.url, json={"config": config})
    async with talk(server, session["session_id"]) as talker:
        await speak(talker, clip)
        await talker.until("text_response")
    (request,) = server.engine.requests
    assert request.conversation.transcribe is True
    assert request.conversation.language == "en"
    assert request.sampling.temperature == 0


async def test_end_turn_ends_it_before_the_silence_does(server: RunningServer, clip: bytes) -> None:
    async with talk(server) as talker:
        await speak(talker, clip[:-32_000])
        await talker.control("end_turn")
        response = await talker.until("text_response")
        assert response["source"] == "audio"
        await talker.control("end_turn")
        await talker.status("no_speech")


class LateVad:
    """A VAD that takes its time when a test wants it."""

    def __init__(self, vad: Any) -> None:
        self._vad = vad
        self.late_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vad, name)

    async def listen(self, key: str, frames: Any) -> Any:
        await asyncio.sleep(self.late_s)
        return await self._vad.listen(key, frames)


async def turns_of(talker: Talker) -> int:
    """How many turns were begun, once everything that was sent has been heard."""
    await talker.control("get_stats")
    while "stats" not in await talker.next():
        pass
    return sum(message.get("status") == "speech_started" for message in talker.seen)


def middle(clip: bytes) -> int:
    """A place within the words."""
    return 9600 + (len(clip) - 41_600) // 4 * 2


async def test_a_worker_that_is_late_in_hearing_does_not_take_it_for_a_pause(
    start_server: Start, vad: Vad, clip: bytes
) -> None:
    server = start_server(ready=False)
    late = LateVad(vad)
    server.become_ready(vad=late)
    async with talk(server) as talker:
        await talker.send(clip[: middle(clip)])
        await talker.status("speech_started")
        # More than `silence_ms` + 250.
        late.late_s = 2.0
        await talker.send(clip[middle(clip) :])
        await asyncio.sleep(1.0)
        assert await turns_of(talker) == 1


async def test_a_loop_that_was_late_reads_what_has_come_before_it_sees_a_pause(
    server: RunningServer, clip: bytes
) -> None:
    is_late = threading.Event()

    async def be_late() -> None:
        is_late.set()
        time.sleep(1.5)  # noqa: ASYNC251 - this is what the test is about

    async with talk(server) as talker:
        await talker.send(clip[: middle(clip)])
        await talker.status("speech_started")
        late = asyncio.create_task(asyncio.to_thread(server.thread.call, be_late()))
        await asyncio.to_thread(is_late.wait)
        await talker.send(clip[middle(clip) :])
        assert await turns_of(talker) == 1
        await late


async def test_speech_without_a_pause_is_cut_into_turns_that_hold_each_sample_once(
    start_server: Start, clip: bytes
) -> None:
    server = start_server(max_turn_seconds=2.0, speculation=False)
    speech = clip[9600:-32_000]
    stream = bytes(9600) + 6 * speech + bytes(32_000)
    session = await create(server.url, json={"config": {"mode": "transcribe"}})
    async with talk(server, session["session_id"]) as talker:
        await speak(talker, stream)
        begun = await turns_of(talker)
        while sum(message["type"] == "text_response" for message in talker.seen) < begun:
            await talker.next()
    assert begun > 4
    assert not any(message.get("status") == "interrupted" for message in talker.seen)
    sent = np.frombuffer(stream, "<i2").astype(np.float32) / np.float32(32768)
    is_missing, at = np.ones(len(sent), bool), 0
    for request in server.engine.requests:
        (audio,) = request.conversation.user.parts
        assert isinstance(audio, Audio)
        length = len(audio.samples)
        assert length <= 2 * 16_000
        # Each turn is a piece of what was sent, and begins at or behind the end of the last.
        while not np.array_equal(sent[at : at + length], audio.samples):
            at += 512
            assert at < len(sent)
        is_missing[at : at + length] = False
        at += length
    # What is in no turn is quiet.
    assert len(server.engine.requests) == begun
    assert np.abs(sent[is_missing]).max() < 0.05


async def test_a_pause_in_the_stream_counts_as_silence(server: RunningServer, clip: bytes) -> None:
    async with talk(server) as talker:
        await speak(talker, clip[:-32_000])
        assert (await talker.until("text_response"))["source"] == "audio"


async def test_speech_interrupts_the_response_being_made(
    server: RunningServer, clip: bytes
) -> None:
    server.engine.holds = True
    async with talk(server) as talker:
        await talker.text("tell me a long story")
        await talker.until("text_delta")
        await speak(talker, clip)
        interrupted = await talker.status("interrupted")
        response = await talker.until("text_response")
        started = await talker.status("speech_started")
        await talker.until("text_delta")
    assert response["turn_id"] == interrupted["turn_id"] != started["turn_id"]
    assert response["finish_reason"] == "interrupted"
    assert response["text"] == "You "
    assert server.engine.held[0].is_cancelled
    (exchange,) = server.engine.requests[1].conversation.history
    assert exchange.assistant.token_ids == (100,)


async def test_cancel_stops_the_response_and_tells_what_was_delivered(
    server: RunningServer,
) -> None:
    server.engine.holds = True
    async with talk(server) as talker:
        await talker.control("cancel")
        assert (await talker.status("cancelled"))["turn_id"] is None
        await talker.text("hello")
        delta = await talker.until("text_delta")
        await talker.control("cancel")
        assert (await talker.status("cancelled"))["turn_id"] == delta["turn_id"]
        response = await talker.until("text_response")
        assert (response["finish_reason"], response["text"]) == ("interrupted", "You ")


async def test_ping_is_answered_with_pong(server: RunningServer) -> None:
    for line in ("audio", "control"):
        async with talk(server, line=line) as talker:
            await talker.control("ping", timestamp=1.5)
            pong = await talker.until("control")
            assert pong["control_type"] == "pong"
            assert "seq" not in pong


async def test_stats_have_the_documented_fields(server: RunningServer) -> None:
    async with talk(server) as talker:
        await talker.send("not json")
        await talker.control("get_stats")
        while "stats" not in (message := await talker.until("status")):
            pass
    assert set(message["stats"]) == {
        "client_id",
        "session_id",
        "connection_duration",
        "message_count",
        "error_count",
        "queue_size",
    }
    assert message["stats"]["message_count"] == 2
    assert message["stats"]["error_count"] == 1


async def test_heartbeats_come_with_the_last_number(start_server: Start) -> None:
    server = start_server(heartbeat_interval_seconds=0.1)
    async with talk(server) as talker:
        assert (await talker.until("heartbeat"))["seq"] == 0
        await talker.text("hello")
        response = await talker.until("text_response")
        assert (await talker.until("heartbeat"))["seq"] == response["seq"]


async def test_an_unknown_session_is_told_after_the_upgrade(server: RunningServer) -> None:
    for session_id in ("nonsense", "550e8400-e29b-41d4-a716-446655440000"):
        async with talk(server, session_id) as talker:
            message = await talker.next()
            assert (message["type"], message["code"]) == ("error", "SESSION_NOT_FOUND")
            assert await talker.closed() == 4404


async def test_a_deleted_session_closes_its_connections(server: RunningServer) -> None:
    session_id = (await create(server.url))["session_id"]
    async with talk(server, session_id) as audio, talk(server, session_id, "control") as control:
        async with aiohttp.ClientSession() as http:
            await http.delete(f"{server.url}/session/{session_id}")
        assert await audio.closed() == 1000
        assert await control.closed() == 1000


async def test_a_quiet_session_expires(start_server: Start) -> None:
    server = start_server(session_idle_timeout_seconds=0.3)
    session_id = (await create(server.url))["session_id"]
    async with talk(server, session_id) as talker:
        assert await talker.closed() == 4408
        assert talker.seen[-1]["status"] == "session_expired"
    async with talk(server, session_id) as talker:
        assert await talker.closed() == 4404


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_REQUEST"),
        ("[1]", "INVALID_REQUEST"),
        ("[" * 100_000, "INVALID_REQUEST"),
        ('{"type": "dance"}', "INVALID_REQUEST"),
        ('{"type": "text_input"}', "INVALID_REQUEST"),
        ('{"type": "text_input", "text": " "}', "INVALID_REQUEST"),
        ('{"type": "text_input", "text": 5}', "INVALID_REQUEST"),
        ('{"type": "text_input", "text": "\\ud800"}', "INVALID_REQUEST"),
        ('{"type": "control", "control_type": "explode"}', "INVALID_REQUEST"),
        ('{"type": "control", "control_type": "resume", "last_seq": -1}', "INVALID_REQUEST"),
        ('{"type": "config_update", "config": {"loud": true}}', "INVALID_REQUEST"),
        ('{"type": "config_update", "config": {"temperature": 9}}', "INVALID_REQUEST"),
        ('{"type": "config_update", "config": 1}', "INVALID_REQUEST"),
        (json.dumps({"type": "text_input", "text": "x" * 32_769}), "PAYLOAD_TOO_LARGE"),
        ("x" * ((1 << 20) + 1), "PAYLOAD_TOO_LARGE"),
        (b"odd", "AUDIO_FORMAT_ERROR"),
        (bytes((1 << 20) + 2), "PAYLOAD_TOO_LARGE"),
    ],
)
async def test_bad_input_gets_one_error_and_the_connection_lives(
    server: RunningServer, message: str | bytes, code: str
) -> None:
    async with talk(server) as talker:
        await talker.send(message)
        error = await talker.until("error")
        assert error["code"] == code
        assert error["error"]
        assert "seq" not in error
        await talker.control("ping")
        await talker.until("control")
        assert [m["type"] for m in talker.seen].count("error") == 1


async def test_a_frame_beyond_the_protocol_layer_closes_with_1009(server: RunningServer) -> None:
    async with talk(server) as talker:
        await talker.send(bytes((4 << 20) + 16))
        assert await talker.closed() == 1009


async def test_audio_on_the_control_connection_is_refused(server: RunningServer) -> None:
    async with talk(server, line="control") as talker:
        await talker.send(bytes(320))
        assert (await talker.until("error"))["code"] == "INVALID_REQUEST"


async def test_config_changes_on_either_connection_and_all_or_nothing(
    server: RunningServer,
) -> None:
    session_id = (await create(server.url))["session_id"]
    async with talk(server, session_id, "control") as talker:
        changes = {"vad_sensitivity": 3, "temperature": 0.3, "max_length": 256}
        await talker.send({"type": "config_update", "config": changes})
        updated = await talker.status("config_updated")
        assert changes.items() <= updated["config"].items()
        await talker.send({"type": "config_update", "config": {"top_p": 0.5, "mode": "sing"}})
        error = await talker.until("error")
        assert "mode" in error["error"]
        await talker.send({"type": "config_update", "config": {}})
        assert (await talker.status("config_updated"))["config"] == updated["config"]


async def test_a_text_is_answered_on_the_connection_that_sent_it(server: RunningServer) -> None:
    session_id = (await create(server.url))["session_id"]
    async with talk(server, session_id) as audio, talk(server, session_id, "control") as control:
        await control.text("What is the weather like today?")
        await control.until("text_response")
        await audio.control("ping")
        await audio.until("control")
        assert {m["type"] for m in audio.seen} == {"status", "control"}


async def test_without_streaming_only_the_response_comes(server: RunningServer) -> None:
    session_id = (await create(server.url, json={"config": {"stream": False}}))["session_id"]
    async with talk(server, session_id) as talker:
        await talker.text("hello")
        await talker.until("text_response")
        assert "text_delta" not in {m["type"] for m in talker.seen}


async def test_a_newer_connection_replaces_the_older(server: RunningServer) -> None:
    session_id = (await create(server.url))["session_id"]
    async with talk(server, session_id) as older, talk(server, session_id) as newer:
        assert await older.closed() == 4409
        await newer.text("hello")
        await newer.until("text_response")


async def test_a_client_that_comes_back_gets_what_it_missed_unchanged(
    server: RunningServer, clip: bytes
) -> None:
    session_id = (await create(server.url))["session_id"]
    async with talk(server, session_id) as talker:
        await speak(talker, clip)
        await talker.until("text_response")
        first = [m for m in talker.seen if "seq" in m]
    async with talk(server, session_id, query="?last_seq=2") as talker:
        resumed = await talker.status("resumed")
        again = [m for m in talker.seen if "seq" in m]
    assert again == first[2:]
    assert resumed["audio_bytes_received"] == len(clip)
    assert resumed["missed"] == 0
    async with talk(server, session_id) as talker:
        await talker.control("resume", last_seq=0)
        await talker.status("resumed")
        assert [m for m in talker.seen if "seq" in m] == first


async def test_an_open_turn_stays_open_while_its_client_reconnects(
    server: RunningServer, clip: bytes
) -> None:
    session_id = (await create(server.url))["session_id"]
    half = len(clip) // 4 * 2
    async with talk(server, session_id) as talker:
        await talker.send(clip[:half])
        await talker.status("speech_started")
    await asyncio.sleep(1.0)
    async with talk(server, session_id, query="?last_seq=1") as talker:
        sent = (await talker.status("resumed"))["audio_bytes_received"]
        assert sent == half
        await talker.send(clip[half:])
        await talker.until("text_response")
    assert len(server.engine.requests) == 1


async def test_a_bad_last_seq_is_refused_before_the_upgrade(server: RunningServer) -> None:
    session_id = (await create(server.url))["session_id"]
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
            await http.ws_connect(f"{server.url}/ws/audio/{session_id}?last_seq=many")


async def test_history_is_part_of_the_next_prompt_until_it_is_cleared(
    server: RunningServer,
) -> None:
    async with talk(server) as talker:
        for text in ("one", "two"):
            await talker.text(text)
            await talker.until("text_response")
        await talker.control("clear_history")
        await talker.status("history_cleared")
        await talker.text("three")
        await talker.until("text_response")
    lengths = [len(request.conversation.history) for request in server.engine.requests]
    assert lengths == [0, 1, 0]


async def test_a_failed_generation_is_told_and_the_next_turn_works(server: RunningServer) -> None:
    server.engine.refuses = EngineFailure("the model failed on this request")
    async with talk(server) as talker:
        await talker.text("hello")
        error = await talker.until("error")
        assert (error["code"], error["turn_id"]) == ("PROCESSING_ERROR", "1")
        assert "seq" in error
        server.engine.refuses = AtCapacity("too many", retry_after_s=1.0)
        await talker.text("hello")
        assert (await talker.until("error"))["retry_after"] == 1.0
        server.engine.refuses = None
        await talker.text("hello")
        await talker.until("text_response")


async def test_at_most_64_texts_wait(server: RunningServer) -> None:
    server.engine.holds = True
    async with talk(server) as talker:
        for number in range(66):
            await talker.text(f"text {number}", request_id=number)
        error = await talker.until("error")
        assert (error["code"], error["request_id"]) == ("RATE_LIMITED", 65)
        await talker.control("get_stats")
        while "stats" not in (message := await talker.until("status")):
            pass
        assert message["stats"]["queue_size"] == 65


async def test_connections_per_minute_are_limited_before_the_upgrade(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True, trusted_proxies=LOOPBACK)
    session_id = (await create(server.url))["session_id"]
    address = f"{server.url}/ws/audio/{session_id}"
    async with aiohttp.ClientSession() as http:
        for left in range(9, -1, -1):
            socket = await http.ws_connect(address)
            assert socket._response.headers["X-RateLimit-Remaining"] == str(left)
            await socket.close()
        async with http.get(
            address,
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        ) as response:
            assert response.status == 429
            assert (await response.json())["code"] == "RATE_LIMITED"
            assert response.headers["X-RateLimit-Limit"] == "10"
            assert "Retry-After" in response.headers


async def test_texts_and_audio_over_the_limit_are_dropped_and_told(start_server: Start) -> None:
    server = start_server(
        rate_limit_enabled=True,
        rate_limit_text_per_minute=2,
        rate_limit_audio_bytes_per_second=3200,
    )
    async with talk(server) as talker:
        for number in range(3):
            await talker.text("hello", request_id=f"r{number}")
        error = await talker.until("error")
        assert (error["code"], error["request_id"]) == ("RATE_LIMITED", "r2")
        assert 0 < error["retry_after"] <= 60
        await talker.send(bytes(3200))
        await talker.send(bytes(3200))
        error = await talker.until("error")
        assert error["code"] == "RATE_LIMITED"
        assert 0 < error["retry_after"] <= 1
    assert len(server.engine.requests) == 2


async def test_a_client_that_ignores_its_limits_is_closed(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True, rate_limit_text_per_minute=1)
    async with talk(server) as talker:
        for _ in range(230):
            await talker.text("hello")
        assert await talker.closed() == 4429


async def test_other_encodings_and_rates_are_heard(server: RunningServer, clip: bytes) -> None:
    wide = np.frombuffer(clip, "<i2").astype(np.float32)
    at_8k = wide[::2].astype("<i2").tobytes()
    session_id = (await create(server.url, json={"config": {"sample_rate": 8000}}))["session_id"]
    async with talk(server, session_id) as talker:
        await speak(talker, at_8k)
        await talker.until("text_response")
    (request,) = server.engine.requests
    (audio,) = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert len(audio.samples) / 16_000 > 0.8


async def test_partial_transcripts_come_while_the_user_speaks(
    server: RunningServer, clip: bytes
) -> None:
    config: dict[str, Any] = {"interim": True}
    session_id = (await create(server.url, json={"config": config}))["session_id"]
    async with talk(server, session_id) as talker:
        await speak(talker, clip)
        partial = await talker.until("transcript_partial")
        await talker.until("text_response")
    assert partial["text"] == "You said so."
    assert partial["stable_chars"] <= len(partial["text"])


async def test_a_draining_worker_finishes_turns_and_closes_with_1012(
    server: RunningServer,
) -> None:
    server.engine.holds = True
    async with talk(server) as talker:
        await talker.text("hello")
        await talker.until("text_delta")
        draining = asyncio.get_running_loop().run_in_executor(None, server.thread.drain, 5.0)
        await talker.status("draining")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{server.url}/ping") as response:
                assert response.status == 503
            async with http.post(f"{server.url}/session/create") as response:
                assert (await response.json())["code"] == "NOT_READY"
        server.engine.finish(server.engine.held[0], ("more.",))
        await talker.until("text_response")
        assert await talker.closed() == 1012
        await draining


async def test_a_session_that_ends_while_its_inbox_is_full_leaves_no_reader_behind(
    server: RunningServer, clip: bytes
) -> None:
    before = value_of(metrics.connections_active)
    for pause_s in (0.0, 0.02, 0.05):
        async with talk(server) as talker:
            session_id = (await talker.next())["session_id"]
            # More than the session can take in, and all of it at once.
            await asyncio.gather(*[talker.send(clip[:64_000]) for _ in range(100)])
            await asyncio.sleep(pause_s)
            async with aiohttp.ClientSession() as http:
                await http.delete(f"{server.url}/session/{session_id}")
            assert await talker.closed() == 1000
    async with asyncio.timeout(10):
        while value_of(metrics.connections_active) > before:
            await asyncio.sleep(0.02)


async def test_a_socket_without_an_id_opens_a_session_of_its_own(server: RunningServer) -> None:
    config = json.dumps({"mode": "transcribe", "silence_ms": 300})
    async with open_socket(f"{server.ws_url}/ws/audio", config=config) as talker:
        connected = await talker.status("connected")
        session_id = connected["session_id"]
        assert connected["websocket_url"] == f"/ws/audio/{session_id}"
        assert connected["control_url"] == f"/ws/control/{session_id}"
        assert connected["expires_in"] == 300
        assert "token" not in connected
        await talker.text("hello")
        await talker.until("text_response")
    # It is a session like any other: its client comes back to it, by its id.
    async with open_socket(server.ws_url + connected["websocket_url"], last_seq="0") as talker:
        assert (await talker.status("connected"))["session_id"] == session_id
        assert (await talker.until("text_response"))["text"]
        await talker.status("resumed")
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{server.url}/session/{session_id}") as seen:
            assert (await seen.json())["config"]["mode"] == "transcribe"
        async with http.delete(f"{server.url}/session/{session_id}") as deleted:
            assert deleted.status == 200


async def test_a_control_socket_without_an_id_opens_a_session_of_its_own(
    server: RunningServer,
) -> None:
    async with open_socket(f"{server.ws_url}/ws/control") as talker:
        connected = await talker.status("connected")
        async with open_socket(server.ws_url + connected["websocket_url"]) as audio:
            await audio.status("connected")
            await talker.text("hello")
            await talker.until("text_response")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ("[" * 1500, "not JSON"),
        ('{"loud": 1}', "loud"),
        ('{"silence_ms": 5}', "100 to 3000"),
    ],
)
async def test_a_socket_that_opens_a_session_is_told_what_is_wrong_with_its_config(
    server: RunningServer, config: str, named: str
) -> None:
    async with open_socket(f"{server.ws_url}/ws/audio", config=config) as talker:
        error = await talker.until("error")
        assert error["code"] == "INVALID_REQUEST"
        assert named in error["error"]
        assert await talker.closed() == 4400
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/health") as health:
        assert (await health.json())["active_sessions"] == 0


async def test_a_socket_that_opens_a_session_counts_as_a_session_and_a_connection(
    start_server: Start,
) -> None:
    server = start_server(
        rate_limit_enabled=True,
        rate_limit_sessions_per_minute=2,
        rate_limit_connections_per_minute=3,
        trusted_proxies=LOOPBACK,
    )
    address = f"{server.ws_url}/ws/audio"
    for _ in range(2):
        async with open_socket(address) as talker:
            connected = await talker.status("connected")
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with open_socket(address):
            pass
    assert "limit of 2 sessions" in json.loads(refused.value.response.body)["error"]
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with open_socket(server.ws_url + connected["websocket_url"]):
            pass
    assert "3 connections" in json.loads(refused.value.response.body)["error"]


async def test_a_full_worker_opens_no_session_by_a_socket(start_server: Start) -> None:
    server = start_server(max_sessions=1)
    async with open_socket(f"{server.ws_url}/ws/audio") as talker:
        await talker.status("connected")
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with open_socket(f"{server.ws_url}/ws/audio"):
                pass
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body)["code"] == "AT_CAPACITY"


async def test_a_session_that_a_socket_opened_has_its_own_token(start_server: Start) -> None:
    server = start_server(api_keys=("the-key-of-the-house",))
    address = f"{server.ws_url}/ws/audio"
    with pytest.raises(websockets.InvalidStatus, match="401"):
        async with open_socket(address):
            pass
    async with open_socket(address, token="the-key-of-the-house") as talker:
        connected = await talker.status("connected")
    own = server.ws_url + connected["websocket_url"]
    async with open_socket(own, token=connected["token"]) as talker:
        await talker.status("connected")
    with pytest.raises(websockets.InvalidStatus, match="403"):
        async with open_socket(address, token=connected["token"]):
            pass


async def test_a_frame_of_the_documented_size_always_fits(start_server: Start) -> None:
    server = start_server(rate_limit_enabled=True)
    async with talk(server) as talker:
        await talker.send(bytes(1 << 20))
        await talker.send(b"")
        await talker.send({"type": "text_input", "text": "\U0001f600" * 32_768})
        await talker.until("text_response")
    assert not [message for message in talker.seen if message["type"] == "error"]


async def test_audio_that_looks_like_something_else_is_told_once_a_connection(
    server: RunningServer, clip: bytes
) -> None:
    floats = (np.frombuffer(clip, "<i2") / 32768).astype("<f4").tobytes()
    session = await create(server.url)
    for _ in range(2):
        async with talk(server, session["session_id"]) as talker:
            for start in range(0, len(floats), 3200):
                await talker.send(floats[start : start + 3200])
            error = await talker.until("error")
            assert error["code"] == "AUDIO_FORMAT_ERROR"
            assert "32-bit float" in error["error"]
            await talker.control("ping")
            await talker.until("control")
        assert len([message for message in talker.seen if message["type"] == "error"]) == 1
    # It is taken all the same.
    async with talk(server, session["session_id"], query="?last_seq=0") as talker:
        assert (await talker.status("resumed"))["audio_bytes_received"] == 2 * len(floats)
