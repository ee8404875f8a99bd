"""Spoken answers over the realtime socket, through OpenAI's own client."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from tests.server.openai.realtime.test_framework_defaults import DEFAULTS
from tests.support.embedded_server import EmbeddedServer, silence, spoken
from tests.support.realtime_caller import Caller, calling

LIGHT = "turn-on-the-kitchen-light"
AUDIO = {"output_modalities": ["audio"]}


@pytest.fixture
async def speaking(voiced: EmbeddedServer) -> AsyncIterator[AsyncOpenAI]:
    async with voiced.client() as client:
        yield client


def sound(caller: Caller) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
    deltas = [e.delta for e in caller.seen if e.type == "response.output_audio.delta"]
    return np.frombuffer(b"".join(map(base64.b64decode, deltas)), "<i2")


def transcript(caller: Caller) -> str:
    kind = "response.output_audio_transcript.delta"
    return "".join(event.delta for event in caller.seen if event.type == kind)


async def test_an_answer_is_sound_and_its_transcript(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        await caller.update(**AUDIO)
        await caller.append(spoken(LIGHT) + silence(1))
        response = await caller.answer()
        assert response.status == "completed"
        assert response.output_modalities == ["audio"]
        (item,) = response.output
        (content,) = item.content
        assert content.type == "output_audio"
        assert content.transcript == transcript(caller) == "You said: Turn on the kitchen light."
        samples = sound(caller)
        assert 1.0 < len(samples) / 24_000 < 5.0
        assert np.abs(samples).max() > 3000
        kinds = caller.kinds()
    expected = [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert [kind for kind in dict.fromkeys(kinds) if kind in expected] == expected
    assert "response.output_text.delta" not in kinds


async def test_the_defaults_of_voice_frameworks_are_spoken(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        session = await caller.update(**DEFAULTS)
        assert session.output_modalities == ["audio"]
        assert session.audio.output.voice == "ash"
        assert session.audio.output.format.rate == 24_000
        await caller.append(spoken(LIGHT) + silence(1))
        await caller.answer()
        assert len(sound(caller))
        # What the worker sent of itself may be sent back.
        sent_back = session.model_dump()
        await caller.connection.session.update(session=sent_back)
        assert (await caller.until("session.updated")).session.model_dump() == sent_back
    assert "error" not in caller.kinds()


async def test_a_telephone_gets_mu_law(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        output = {"format": {"type": "audio/pcmu"}, "voice": "heart", "speed": 1.2}
        session = await caller.update(**AUDIO, audio={"output": output})
        assert session.audio.output.model_dump(exclude_none=True) == output
        await caller.say("hello")
        await caller.connection.response.create()
        await caller.answer()
        deltas = [e.delta for e in caller.seen if e.type == "response.output_audio.delta"]
        # A piece is at most 400 ms at 8 kHz and one byte a sample.
        assert max(len(base64.b64decode(delta)) for delta in deltas) <= 3200


async def test_one_response_may_be_spoken_or_written_by_itself(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        for modality, kind in (("audio", "output_audio"), ("text", "output_text")):
            await caller.say("hello")
            wish: Any = {"output_modalities": [modality]}
            await caller.connection.response.create(response=wish)
            response = await caller.answer()
            assert response.output_modalities == [modality]
            assert response.output[0].content[0].type == kind


async def test_who_speaks_over_speech_interrupts_it_and_truncates_it(
    speaking: AsyncOpenAI, voiced: EmbeddedServer
) -> None:
    async with calling(speaking) as caller:
        await caller.update(**AUDIO)
        await caller.append(spoken(LIGHT) + silence(1))
        added = await caller.until("response.output_item.added")
        await caller.until("response.output_audio.delta")
        await caller.append(spoken(LIGHT))
        started = await caller.until("input_audio_buffer.speech_started")
        item_id = added.item.id
        await caller.connection.conversation.item.truncate(
            item_id=item_id, content_index=0, audio_end_ms=400
        )
        truncated = await caller.until("conversation.item.truncated")
        assert (truncated.item_id, truncated.audio_end_ms) == (item_id, 400)
        # Nothing of the first answer came after its interruption.
        after = caller.seen[caller.seen.index(started) :]
        assert not [
            e for e in after if getattr(e, "item_id", None) == item_id and "delta" in e.type
        ]
        await caller.connection.conversation.item.retrieve(item_id=item_id)
        item = (await caller.until("conversation.item.retrieved")).item
        assert len(item.content[0].transcript) < len("You said: Turn on the kitchen light.")


async def test_what_was_never_spoken_cannot_be_truncated(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        await caller.say("hello")
        await caller.connection.response.create()
        response = await caller.answer()
        item_id = response.output[0].id
        await caller.connection.conversation.item.truncate(
            item_id=item_id, content_index=0, audio_end_ms=100
        )
        assert "no answer that was spoken" in (await caller.error()).message


async def test_a_cancel_ends_speech_whose_words_are_all_made(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        await caller.update(**AUDIO)
        await caller.append(spoken(LIGHT) + silence(1))
        await caller.until("response.output_audio.delta")
        # The words are made at once, and the speech takes its time.
        await asyncio.sleep(0.2)
        await caller.connection.response.cancel()
        response = await caller.answer()
        assert response.status in ("cancelled", "completed")
        if response.status == "cancelled":
            assert response.status_details.reason == "client_cancelled"


@pytest.mark.parametrize("where", ["session", "response"])
async def test_a_worker_without_a_voice_says_so(client: AsyncOpenAI, where: str) -> None:
    async with calling(client) as caller:
        if where == "session":
            update: Any = {"type": "realtime", **AUDIO}
            await caller.connection.session.update(session=update)
        else:
            await caller.say("hello")
            await caller.connection.response.create(response=AUDIO)
        error = await caller.error()
        assert "SPEECH is off" in error.message
        assert error.param == f"{where}.output_modalities"


async def test_how_speech_would_be_has_no_effect_on_text(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        output = {"voice": "marin", "speed": 99, "format": {"type": "audio/nothing"}}
        session = await caller.update(audio={"output": output})
        assert session.output_modalities == ["text"]
        assert session.audio.output is None


async def test_what_cannot_be_spoken_is_named(speaking: AsyncOpenAI) -> None:
    async with calling(speaking) as caller:
        output = {"speed": 99, "format": {"type": "audio/nothing"}}
        update: Any = {"type": "realtime", **AUDIO, "audio": {"output": output}}
        await caller.connection.session.update(session=update)
        message = (await caller.error()).message
        assert "session.audio.output.speed is 99" in message
        assert "session.audio.output.format.type is 'audio/nothing'" in message
        update = {"type": "realtime", "output_modalities": ["smell"]}
        await caller.connection.session.update(session=update)
        assert 'must be ["text"] or ["audio"]' in (await caller.error()).message
