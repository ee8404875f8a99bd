"""What voice frameworks send by default is taken, and what is in effect is shown."""

from typing import Any

from openai import AsyncOpenAI

from tests.support.embedded_server import silence, spoken
from tests.support.realtime_caller import Caller, calling, words

LIGHT = "turn-on-the-kitchen-light"
COMPLETED = "conversation.item.input_audio_transcription.completed"
# What the agents SDKs, LiveKit and Pipecat's example put into an update, all at once.
DEFAULTS: dict[str, Any] = {
    "output_modalities": ["audio"],
    "instructions": "Be kind.",
    "tools": [],
    "tracing": "auto",
    "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
    "include": ["item.input_audio_transcription.logprobs"],
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000},
            "noise_reduction": {"type": "near_field"},
            "transcription": {"model": "gpt-4o-mini-transcribe", "prompt": "kitchen words"},
            "turn_detection": {
                "type": "semantic_vad",
                "eagerness": "auto",
                "create_response": True,
                "interrupt_response": True,
            },
        },
        "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "ash", "speed": 1.0},
    },
}


async def test_the_defaults_of_voice_frameworks_are_taken_and_the_effect_is_shown(
    client: AsyncOpenAI,
) -> None:
    async with calling(client) as caller:
        # A worker without a voice; test_realtime_speech.py has one with it.
        session = await caller.update(**{**DEFAULTS, "output_modalities": ["text"]})
        assert session.instructions == "Be kind."
        assert session.output_modalities == ["text"]
        assert (session.tracing, session.truncation) == (None, "auto")
        assert session.audio.output is None
        heard = session.audio.input
        assert heard.turn_detection.type == "semantic_vad"
        assert heard.turn_detection.eagerness == "auto"
        assert heard.noise_reduction is None
        assert heard.transcription.model == "voxtral-tiny"
        await caller.append(spoken(LIGHT) + silence(1))
        assert words(await caller.answer()).startswith("You said")
    assert "error" not in caller.kinds()


async def test_the_session_that_the_worker_told_of_may_be_sent_back(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        session = caller.seen[0].session.model_dump()
        await caller.connection.session.update(session=session)
        assert (await caller.until("session.updated")).session.model_dump() == session


async def test_all_offenders_of_an_update_are_named_with_their_values(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        tools = [{"type": "web_search"}]
        update = {"type": "realtime", "tools": tools, "max_output_tokens": 0, "loudness": 1}
        await caller.connection.send({"type": "session.update", "session": update})
        message = (await caller.error()).message
    for part in ("session.tools", "session.max_output_tokens is 0", "session.loudness"):
        assert part in message


async def transcribe(caller: Caller) -> None:
    await caller.append(spoken(LIGHT) + silence(1))
    assert (await caller.until(COMPLETED)).transcript == "Turn on the kitchen light."
    assert "response.created" not in caller.kinds()


async def test_a_transcription_session_writes_down_and_never_answers(client: AsyncOpenAI) -> None:
    async with calling(client) as caller:
        heard = {"transcription": {"model": "whisper-1", "language": "en"}}
        update = {"type": "transcription", "audio": {"input": heard}}
        await caller.connection.session.update(session=update)
        session = (await caller.until("session.updated")).session
        assert session.type == "transcription"
        assert session.audio.input.turn_detection.type == "server_vad"
        await transcribe(caller)


async def test_the_address_may_ask_for_a_transcription_session(client: AsyncOpenAI) -> None:
    async with calling(client, extra_query={"intent": "transcription"}) as caller:
        assert caller.seen[0].session.type == "transcription"
        await transcribe(caller)
