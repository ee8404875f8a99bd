"""The realtime socket, by OpenAI's own client."""

import asyncio
import base64
from typing import Any

import numpy as np
import pytest
import websockets
from openai import AsyncOpenAI

from tests.support.embedded_server import KEY, MODEL, EmbeddedServer, silence, spoken
from tests.support.holding import holding
from tests.support.realtime_caller import Caller, calling, manual, words
from voxtral_worker.audio.formats import alaw_table, mulaw_table
from voxtral_worker.audio.frames import FRAME_MS

LIGHT = "turn-on-the-kitchen-light"
HEARD_LIGHT = "You said: Turn on the kitchen light."
HEARD_MUSIC = "You said: Stop the music."


async def test_a_session_says_what_it_does(client: AsyncOpenAI) -> None:
    async with client.realtime.connect(model=MODEL) as connection:
        session: Any = (await connection.recv()).session  # type: ignore[union-attr]
    assert session.type == "realtime"
    assert session.output_modalities == ["text"]
    heard = session.audio.input
    assert (heard.format.type, heard.format.rate) == ("audio/pcm", 24000)
    assert heard.turn_detection.type == "server_vad"
    assert heard.turn_detection.silence_duration_ms == 500
    assert heard.transcription is None


async def test_two_turns_are_heard_and_answered(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        await caller.append(silence(0.5) + spoken(LIGHT) + silence(1))
        first = await caller.answer()
        await caller.append(spoken("stop-the-music") + silence(1))
        second = await caller.answer()
    assert [words(first), words(second)] == [HEARD_LIGHT, HEARD_MUSIC]
    assert caller.kinds() == ["session.created", *TURN, *TURN]
    assert first.status == "completed"
    once, twice = (each.usage.input_token_details.audio_tokens for each in (first, second))
    # The embedded model samples the tail: a turn of about two seconds takes so many rows.
    assert 30 < once < 64
    assert once + 30 < twice < once + 64
    # In addition <s>, [INST], [BEGIN_AUDIO] and [/INST].
    assert first.usage.input_tokens == once + 4
    assert second.usage.total_tokens == second.usage.input_tokens + second.usage.output_tokens
    started, stopped, committed = caller.seen[1:4]
    assert started.item_id == stopped.item_id == committed.item_id
    # Speech begins after half a second, and 300 ms before it belong to the turn.
    assert 0 <= started.audio_start_ms < 1000
    assert started.audio_start_ms % FRAME_MS == 0
    assert stopped.audio_end_ms > started.audio_start_ms + 800
    deltas = [event.delta for event in caller.seen if event.type == "response.output_text.delta"]
    assert "".join(deltas) == HEARD_LIGHT + HEARD_MUSIC
    assert len({event.event_id for event in caller.seen}) == len(caller.seen)


TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


async def test_a_client_may_say_itself_when_a_turn_is_over(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        session = await caller.update(audio=manual())
        assert session.audio.input.turn_detection is None
        await caller.append(spoken("what-time-is-it"))
        await caller.connection.input_audio_buffer.clear()
        await caller.until("input_audio_buffer.cleared")
        await caller.append(spoken(LIGHT))
        await caller.connection.input_audio_buffer.commit()
        committed = await caller.until("input_audio_buffer.committed")
        done = await caller.until("conversation.item.done")
        assert done.item.id == committed.item_id
        await caller.connection.response.create(response={"metadata": {"number": "1"}})
        response = await caller.answer()
    assert words(response) == HEARD_LIGHT
    assert response.metadata == {"number": "1"}
    assert "input_audio_buffer.speech_started" not in caller.kinds()


async def test_what_was_said_is_written_down_if_asked_for(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        await caller.update(audio={"input": {"transcription": {"model": MODEL, "language": "en"}}})
        await caller.append(spoken(LIGHT) + silence(1))
        seen: dict[str, Any] = {}
        while len(seen) < 2:
            event = await caller.next()
            if event.type in (COMPLETED, "response.done"):
                seen[event.type] = event
        item_id = seen[COMPLETED].item_id
        await caller.connection.conversation.item.retrieve(item_id=item_id)
        retrieved = await caller.until("conversation.item.retrieved")
    assert seen[COMPLETED].transcript == "Turn on the kitchen light."
    assert 30 < seen[COMPLETED].usage.input_token_details.audio_tokens < 64
    assert retrieved.item.content[0].transcript == "Turn on the kitchen light."
    deltas = [event.delta for event in caller.seen if event.type.endswith("transcription.delta")]
    assert "".join(deltas) == "Turn on the kitchen light."
    assert words(seen["response.done"].response) == HEARD_LIGHT


COMPLETED = "conversation.item.input_audio_transcription.completed"


async def test_texts_and_answers_from_outside_make_a_conversation(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        await caller.say("hello")
        assistant = [{"type": "output_text", "text": "Hello! How can I help you?"}]
        await caller.connection.conversation.item.create(
            item={"type": "message", "role": "assistant", "content": assistant}
        )
        await caller.say("who are you")
        added = await caller.until("conversation.item.done")
        for _ in range(2):
            before, added = added, await caller.until("conversation.item.done")
        assert added.previous_item_id == before.item.id
        await caller.connection.conversation.item.delete(item_id=added.item.id)
        await caller.until("conversation.item.deleted")
        await caller.say("thank you")
        await caller.connection.response.create()
        response = await caller.answer()
    assert words(response) == "You are welcome."
    assert response.usage.input_token_details.audio_tokens == 0


async def test_an_item_may_hold_audio_in_the_format_of_the_session(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        sound = base64.b64encode(spoken(LIGHT)).decode()
        content = [{"type": "input_audio", "audio": sound}]
        await caller.connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": content}
        )
        await caller.connection.response.create()
        assert words(await caller.answer()) == HEARD_LIGHT


@pytest.mark.parametrize(
    ("kind", "table"), [("audio/pcmu", mulaw_table()), ("audio/pcma", alaw_table())]
)
async def test_telephones_speak_g711(client: AsyncOpenAI, kind: str, table: Any) -> None:
    async with calling(client) as caller:
        await caller.update(audio={"input": {"format": {"type": kind}}})
        await caller.append(g711(spoken(LIGHT, 8000) + silence(1, 8000), table))
        assert words(await caller.answer()) == HEARD_LIGHT


def g711(pcm: bytes, table: Any) -> bytes:
    """Each sample as the code whose value is nearest."""
    samples = np.frombuffer(pcm, "<i2") / 32768
    order = np.argsort(table)
    middles = (table[order][1:] + table[order][:-1]) / 2
    return bytes(order[np.searchsorted(middles, samples)].astype(np.uint8))


async def test_turns_may_be_heard_and_not_answered(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        turns = {"type": "server_vad", "create_response": False, "threshold": 0.6}
        await caller.update(audio={"input": {"turn_detection": turns}})
        await caller.append(spoken(LIGHT) + silence(1))
        await caller.until("conversation.item.done")
        assert "response.created" not in caller.kinds()
        await caller.connection.response.create(response={"max_output_tokens": 3})
        response = await caller.answer()
    assert response.status == "incomplete"
    assert response.status_details.reason == "max_output_tokens"
    assert HEARD_LIGHT.startswith(words(response))


async def test_speech_interrupts_the_response_unless_told_otherwise(
    embedded: EmbeddedServer, client: AsyncOpenAI
) -> None:
    async with calling(client) as caller:
        with holding(embedded.engine):
            await caller.say("what time is it")
            await caller.connection.response.create()
            await caller.until("response.output_text.delta")
        await caller.append(spoken(LIGHT) + silence(1))
        cut, whole = await caller.answer(), await caller.answer()
    assert (cut.status, cut.status_details.reason) == ("cancelled", "turn_detected")
    assert (whole.status, words(whole)) == ("completed", HEARD_LIGHT)


async def test_a_response_can_be_cancelled(embedded: EmbeddedServer, client: AsyncOpenAI) -> None:
    with holding(embedded.engine):
        async with calling(client) as caller:
            await caller.say("what time is it now")
            await caller.connection.response.create()
            await caller.until("response.output_text.delta")
            await caller.connection.response.create()
            assert (await caller.error()).code == "conversation_already_has_active_response"
            await caller.connection.response.cancel(response_id="resp_other")
            assert (await caller.error()).code == "response_cancel_not_active"
            await caller.connection.response.cancel()
            response = await caller.answer()
            generation = embedded.engine.last
            await caller.connection.response.cancel()
            assert (await caller.error()).code == "response_cancel_not_active"
    assert (response.status, response.status_details.reason) == ("cancelled", "client_cancelled")
    assert generation is not None and generation.is_cancelled


async def test_the_engine_is_let_go_when_the_client_leaves(
    embedded: EmbeddedServer, client: AsyncOpenAI
) -> None:
    with holding(embedded.engine):
        async with calling(client) as caller:
            await caller.say("what time is it then")
            await caller.connection.response.create()
            await caller.until("response.output_text.delta")
            generation = embedded.engine.last
        async with asyncio.timeout(30):
            while generation and not generation.is_cancelled:  # noqa: ASYNC110 - it knows no events
                await asyncio.sleep(0.01)


OPTIONS_NOT_OFFERED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "web_search", "name": "f"}]}, "session.tools"),
    (
        {"tools": [{"type": "function", "name": "f"}], "tool_choice": "sometimes"},
        "session.tool_choice",
    ),
    ({"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}}, "threshold"),
    ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "format.rate"),
    ({"max_output_tokens": 0}, "session.max_output_tokens"),
    ({"model": "gpt-realtime"}, "session.model"),
    ({"voice": "alloy"}, "session.voice"),
    ({"loudness": 1}, "session.loudness"),
]


async def test_options_that_are_not_offered_are_told_by_their_names(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        before = await caller.update()
        for number, (options, param) in enumerate(OPTIONS_NOT_OFFERED):
            event_id = f"event_{number}"
            await send(
                caller,
                {
                    "type": "session.update",
                    "event_id": event_id,
                    # All or nothing: the good one is not taken either.
                    "session": {"type": "realtime", "instructions": "x", **options},
                },
            )
            error = await caller.error()
            assert error.type == "invalid_request_error"
            assert error.event_id == event_id
            assert param in error.param
            assert error.param in error.message
        assert await caller.update() == before


async def send(caller: Caller, event: dict[str, Any]) -> None:
    await caller.connection.send(event)


USER = {"type": "message", "role": "user"}
EVENTS_REFUSED: list[tuple[dict[str, Any], str | None]] = [
    ({"type": "sing"}, "type"),
    ({"type": "output_audio_buffer.clear"}, "type"),
    ({"type": "session.update"}, "session"),
    ({"type": "input_audio_buffer.append", "audio": "*"}, "audio"),
    ({"type": "input_audio_buffer.append"}, "audio"),
    ({"type": "input_audio_buffer.append", "audio": None}, "audio"),
    ({"type": "input_audio_buffer.append", "audio": "AAA=", "rate": 1}, "rate"),
    ({"type": "input_audio_buffer.commit"}, None),
    ({"type": "response.create", "response": []}, "response"),
    ({"type": "response.create", "response": {"tools": [{}]}}, "response.tools"),
    ({"type": "response.create", "response": {"conversation": "new"}}, "response.conversation"),
    ({"type": "response.create", "response": {"input": "hello"}}, "response.input"),
    (
        {"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "?"}]}},
        "item_id",
    ),
    (
        {"type": "response.create", "response": {"input": [{"type": "mcp_call"}]}},
        "response.input[0].type",
    ),
    (
        {"type": "response.create", "response": {"input": [{"type": "function_call"}]}},
        "response.input[0]",
    ),
    ({"type": "response.create", "response": {"metadata": {"a": 1}}}, "response.metadata"),
    ({"type": "conversation.item.delete", "item_id": "item_0"}, "item_id"),
    ({"type": "conversation.item.create", "item": {"type": "mcp_call"}}, "item.type"),
    ({"type": "conversation.item.create", "item": {"type": "function_call"}}, "item"),
    ({"type": "conversation.item.create", "item": {"type": "song"}}, "item.type"),
    ({"type": "conversation.item.create", "item": {**USER, "role": "cook"}}, "item.role"),
    ({"type": "conversation.item.create", "item": {**USER, "content": 1}}, "item.content"),
    (
        {
            "type": "conversation.item.create",
            "item": {**USER, "content": [{"type": "input_image"}]},
        },
        "item.content[0].type",
    ),
    (
        {
            "type": "conversation.item.create",
            "previous_item_id": "item_0",
            "item": {**USER, "content": [{"type": "input_text", "text": "a"}]},
        },
        "previous_item_id",
    ),
]


async def test_events_that_cannot_be_taken_are_told_and_the_session_goes_on(
    client: AsyncOpenAI,
) -> None:
    async with calling(client) as caller:
        for number, (event, param) in enumerate(EVENTS_REFUSED):
            await send(caller, {**event, "event_id": f"e{number}"})
            error = await caller.error()
            assert error.param == param, error
            assert error.type == "invalid_request_error"
            assert error.event_id in (f"e{number}", None)
        for frame in ("{", "[]", b"\0\1"):
            await caller.connection._connection.send(frame)
            assert (await caller.error()).type == "invalid_request_error"
        await caller.append(spoken(LIGHT) + silence(1))
        assert words(await caller.answer()) == HEARD_LIGHT


async def test_an_answer_and_what_it_answers_cannot_be_deleted(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        await caller.say("hello")
        item = (await caller.until("conversation.item.done")).item
        await caller.connection.response.create()
        response = await caller.answer()
        for item_id in (item.id, response.output[0].id):
            await caller.connection.conversation.item.delete(item_id=item_id)
            assert (await caller.error()).param == "item_id"


async def test_a_key_may_come_as_a_protocol_as_browsers_send_it(embedded: EmbeddedServer) -> None:
    url = f"{embedded.ws_url}/v1/realtime?model={MODEL}"
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with websockets.connect(url, subprotocols=protocols) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == "realtime"
        assert "session.created" in str(await socket.recv())
    async with websockets.connect(url, subprotocols=protocols[:1]) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == "realtime"
        assert "invalid_api_key" in str(await socket.recv())
