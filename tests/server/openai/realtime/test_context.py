"""What a realtime response is made from: greetings, items of any role, contexts of its own."""

from typing import Any

from openai import AsyncOpenAI

from tests.server.openai.realtime.test_edges import calling
from tests.support.holding import holding
from tests.support.realtime_caller import Caller
from tests.support.realtime_caller import calling as calling_model
from tests.support.running_server import RunningServer
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)


async def respond(caller: Caller, **wishes: Any) -> Any:
    await caller.connection.response.create(response=wishes)
    return await caller.answer()


async def item(caller: Caller, role: str, content: Any, **more: Any) -> Any:
    made = {"type": "message", "role": role, "content": content, **more}
    await caller.connection.conversation.item.create(item=made)
    return (await caller.until("conversation.item.done")).item


def part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


def asked(server: RunningServer) -> Conversation:
    return server.engine.requests[-1].conversation


async def test_a_greeting_is_made_of_the_instructions(server: RunningServer) -> None:
    async with calling(server) as caller:
        await respond(caller, instructions="Greet the user.")
        assert (asked(server).user, asked(server).system_prompt) == (
            UserTurn(("Greet the user.",)),
            None,
        )
        await caller.update(instructions="Be kind.")
        await respond(caller)
        assert asked(server).user == UserTurn(("Be kind.",))
        await caller.say("hello")
        await respond(caller)
        assert (asked(server).user, asked(server).system_prompt) == (
            UserTurn(("hello",)),
            "Be kind.",
        )
    assert "error" not in caller.kinds()


async def test_the_model_greets(client: AsyncOpenAI) -> None:
    async with calling_model(client) as caller:
        for wishes in ({}, {"instructions": "Say hello."}):
            response = await respond(caller, **wishes)
            assert response.status == "completed"
            assert response.output[0].content[0].text.strip()
    assert "error" not in caller.kinds()


async def test_a_worker_without_a_voice_says_so(client: AsyncOpenAI) -> None:
    async with calling_model(client) as caller:
        await caller.connection.response.create(response={"output_modalities": ["audio"]})
        assert "SPEECH" in (await caller.error()).message


async def test_items_of_every_role_and_shape_make_a_conversation(server: RunningServer) -> None:
    text = {"type": "text", "text": "A greeting."}
    async with calling(server) as caller:
        first = await item(caller, "assistant", [text])
        assert first.content[0].type == "output_text"
        await item(caller, "assistant", [])
        await item(caller, "assistant", [{"type": "output_audio", "transcript": "You there?"}])
        await item(caller, "user", [{"type": "input_audio", "transcript": "Yes."}])
        system = await item(caller, "system", [{"type": "input_text", "text": "Be brief."}])
        assert (system.role, system.content[0].text) == ("system", "Be brief.")
        await item(caller, "developer", "Be kind.", object="realtime.item", status="completed")
        await item(caller, "user", [])
        await item(caller, "user", [{"type": "input_text", "text": " "}])
        await respond(caller)
    conversation = asked(server)
    assert conversation.history == (
        Exchange(UserTurn(()), AssistantTurn(text="A greeting.")),
        Exchange(UserTurn(()), AssistantTurn(text="You there?")),
    )
    assert conversation.user == UserTurn(("Yes.", "\n\n", "Be brief.", "\n\n", "Be kind."))
    assert "error" not in caller.kinds()


async def test_a_response_may_have_its_input_of_its_own(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.update(instructions="Be kind.")
        await caller.say("What is blue?")
        said = (await caller.until("conversation.item.done")).item
        wanted = [
            {"type": "message", "role": "system", "content": "Be brief."},
            {"type": "item_reference", "id": said.id},
            {"type": "message", "role": "assistant", "content": [part("output_text", "The sky.")]},
            {"type": "message", "role": "user", "content": [part("input_text", "And?")]},
        ]
        await respond(caller, input=wanted, instructions="Be wise.")
        assert asked(server) == Conversation(
            UserTurn(("And?",)),
            (Exchange(UserTurn(("What is blue?",)), AssistantTurn(text="The sky.")),),
            "Be wise.\n\nBe brief.",
        )
        # The conversation has the answer, and what was not answered yet still waits.
        await respond(caller)
    (exchange,) = asked(server).history
    assert exchange.user == UserTurn(())
    assert asked(server).user == UserTurn(("What is blue?",))


async def test_an_empty_input_is_an_empty_context(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.say("hello")
        await respond(caller, input=[], instructions="Say a word.")
    assert asked(server) == Conversation(UserTurn(("Say a word.",)))


async def test_a_response_beside_the_conversation_leaves_no_trace_in_it(
    server: RunningServer,
) -> None:
    async with calling(server) as caller:
        await caller.say("hello")
        await caller.until("conversation.item.done")
        seen = len(caller.seen)
        response = await respond(
            caller, conversation="none", metadata={"topic": "mood"}, instructions="One word: mood?"
        )
        assert (response.conversation_id, response.metadata) == (None, {"topic": "mood"})
        assert asked(server).system_prompt == "One word: mood?"
        kinds = [event.type for event in caller.seen[seen:]]
        assert "response.output_item.done" in kinds
        assert not any(kind.startswith("conversation.") for kind in kinds)
        joined = await respond(caller)
        assert joined.conversation_id
        assert asked(server) == Conversation(UserTurn(("hello",)))


async def test_a_response_beside_the_conversation_may_be_asked_for_while_one_is_made(
    server: RunningServer,
) -> None:
    async with calling(server) as caller:
        with holding(server.engine):
            await caller.say("hello")
            await caller.connection.response.create()
            await caller.until("response.output_text.delta")
            wishes: Any = {"conversation": "none", "metadata": {"n": "2"}}
            await caller.connection.response.create(response=wishes)
        server.engine.finish(server.engine.held[0], ("done.",))
        first, second = await caller.answer(), await caller.answer()
    assert (first.metadata, second.metadata) == (None, {"n": "2"})
    assert "error" not in caller.kinds()


async def test_audio_in_the_input_is_heard_in_the_format_of_the_session(
    server: RunningServer,
) -> None:
    sound = {"type": "input_audio", "audio": "AAAA" * 2000}
    async with calling(server) as caller:
        wanted = [{"type": "message", "role": "user", "content": [sound]}]
        await respond(caller, input=wanted, conversation="none")
    (part,) = asked(server).user.parts
    assert isinstance(part, Audio)
    # 6,000 bytes at 24 kHz, in whole frames of 16 kHz.
    assert 2000 <= len(part.samples) < 2600


async def test_a_spoken_item_without_a_transcript_cannot_be_referred_to(
    server: RunningServer,
) -> None:
    sound = {"type": "input_audio", "audio": "AAAA" * 2000}
    async with calling(server) as caller:
        spoken = await item(caller, "user", [sound])
        wanted = [{"type": "item_reference", "id": spoken.id}]
        await caller.connection.response.create(response={"input": wanted})
        assert "has no transcript" in (await caller.error()).message


async def test_a_transcription_session_gives_no_responses(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.connection.session.update(session={"type": "transcription"})
        await caller.connection.response.create()
        error = await caller.error()
        assert "a session of type transcription gives no responses" in error.message
        assert error.param == "type"
    assert not server.engine.requests


async def test_a_commit_where_nothing_was_heard_says_so(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.append(bytes(48_000))
        await caller.connection.input_audio_buffer.commit()
        error = await caller.error()
    assert error.code == "input_audio_buffer_commit_empty"
    assert "no speech was heard" in error.message


async def test_all_that_is_wrong_with_an_event_is_told_at_once(server: RunningServer) -> None:
    async with calling(server) as caller:
        turns = {"type": "server_vad", "threshold": 7, "silence_duration_ms": 1}
        heard = {"format": {"type": "audio/mp3"}, "turn_detection": turns, "loudness": 3}
        session = {"type": "realtime", "model": "gpt-realtime", "voice": "ash", "tools": [{"a": 1}],
                   "max_output_tokens": -1, "audio": {"input": heard}}  # fmt: skip
        await caller.connection.send({"type": "session.update", "session": session})
        message = (await caller.error()).message
    for told in (
        "session.voice is of the preview",
        "session.model is 'gpt-realtime'; served is 'fake'",
        "session.tools[0].name is null, but must have 1 to 64",
        "session.max_output_tokens is -1",
        "session.audio.input.format.type is 'audio/mp3'",
        "session.audio.input.turn_detection.threshold is 7",
        "session.audio.input.turn_detection.silence_duration_ms is 1",
        "there is no parameter session.audio.input.loudness",
    ):
        assert told in message
