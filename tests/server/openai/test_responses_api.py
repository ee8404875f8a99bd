"""The Responses API, by OpenAI's own client."""

import base64
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.embedded_server import MODEL, clip
from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.server.openai.responses_request import read_responses

HELLO = "Hello, how are you?"
FINE = "I am fine, thank you."
TOOL: Any = {"type": "function", "name": "f", "parameters": {}, "strict": False}


async def ask(client: AsyncOpenAI, said: Any, **options: Any) -> Any:
    return await client.responses.create(model=MODEL, input=said, temperature=0, **options)


async def test_a_text_is_answered(client: AsyncOpenAI) -> None:
    made = await ask(client, HELLO, metadata={"a": "b"}, store=False)
    assert (made.output_text, made.status, made.error) == (FINE, "completed", None)
    assert (made.model, made.metadata) == (MODEL, {"a": "b"})
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert made.usage.output_tokens > 0


async def test_a_conversation_goes_on_with_what_was_answered(client: AsyncOpenAI) -> None:
    first = await ask(client, HELLO, instructions="Be kind.")
    talk = [
        {"role": "user", "content": HELLO},
        *first.output,
        {"role": "user", "content": "thank you"},
    ]
    again = await ask(
        client, [each if isinstance(each, dict) else each.model_dump() for each in talk]
    )
    assert again.output_text == "You are welcome."


async def test_speech_is_answered(client: AsyncOpenAI) -> None:
    data = base64.b64encode(clip("turn-on-the-kitchen-light")).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    made = await ask(client, [{"role": "user", "content": [part]}])
    assert made.output_text == "You said: Turn on the kitchen light."


async def test_a_stream_has_the_same_words_in_numbered_events(client: AsyncOpenAI) -> None:
    stream = await ask(client, HELLO, stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == FINE
    assert len(deltas) > 2
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_the_clients_own_stream_helper_understands_it(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input=HELLO, temperature=0) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text == FINE


async def test_an_answer_that_is_cut_says_so(client: AsyncOpenAI) -> None:
    for streams in (False, True):
        made = await ask(client, HELLO, max_output_tokens=2, stream=streams)
        if streams:
            *_, last = [event async for event in made]
            assert last.type == "response.incomplete"
            made = last.response
        assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert FINE.startswith(made.output_text)


async def test_instructions_alone_are_answered(client: AsyncOpenAI) -> None:
    made = await ask(client, "", instructions="Greet the user.")
    assert made.output_text.strip()


async def test_a_conversation_beyond_the_context_is_told(client: AsyncOpenAI) -> None:
    for streams in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(client, "word " * 60_000, stream=streams)
        assert (caught.value.status_code, caught.value.param) == (413, "input")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"tools": [{"type": "web_search"}]},
            "tools[0].type is 'web_search', but must be function",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice is"),
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id: this worker stores no responses",
        ),
        ({"conversation": "conv_1"}, "conversation: this worker stores no responses"),
        ({"background": True}, "background is true, but nothing is stored"),
        ({"prompt": {"id": "p"}}, "prompt is not supported"),
        ({"text": {"format": {"type": "xml"}}}, "text.format is {'type': 'xml'}, but must be"),
        (
            {"text": {"format": {"type": "json_schema", "schema": 1}}},
            "text.format.schema must be a JSON schema",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens is 0"),
        ({"loudness": 3}, "there is no parameter loudness"),
        ({"input": []}, "input is an empty list"),
        ({"input": None}, "input is null"),
        ({"input": [7]}, "input[0] is 7, but must be an object"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id is null"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].call_id is null"),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": "3"}]},
            "no call of a tool that waits has the id '1'",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": [{"a": 1}]}]},
            "input[0].output is [{'a': 1}], but must be a text, or a list of parts",
        ),
        (
            {"input": [{"type": "item_reference", "id": "a"}]},
            "items may be messages, function_call",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "'input_image'"),
    ],
)
def test_what_is_not_offered_is_told_by_its_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadOption) as caught:
        read_responses({"model": "m", "input": "hello", **options})
    assert told in caught.value.message


def test_what_changes_no_answer_is_taken() -> None:
    plain = read_responses({"model": "m", "input": "hello"})
    wishes: dict[str, Any] = {
        "tools": [], "tool_choice": "none", "reasoning": {"effort": "low"}, "include": [],
        "truncation": "auto", "service_tier": "flex", "store": True, "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}, "verbosity": "low"}, "user": "u",
        "stream_options": {"include_obfuscation": False}, "previous_response_id": None,
    }  # fmt: skip
    assert read_responses({"model": "m", "input": "hello", **wishes}) == plain
    thought = {"type": "reasoning", "id": "r", "summary": []}
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    assert read_responses({"model": "m", "input": [thought, said]}) == plain
    assert read_responses({"model": "m", "input": [None, said]}) == plain
