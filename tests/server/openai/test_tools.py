"""Tools and forms of answers over OpenAI's calls, with the `openai` package."""

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseFunctionToolCall

from tests.support.embedded_server import MODEL

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "enum": ["kitchen", "bedroom"]},
        "on": {"type": "boolean"},
    },
    "required": ["room", "on"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "set_device", "description": "Switches a lamp", "parameters": SCHEMA},
}
FLAT: dict[str, Any] = {"type": "function", **TOOL["function"], "strict": True}
NAMED = {"type": "function", "function": {"name": "set_device"}}
HELLO: Any = {"role": "user", "content": "turn on the kitchen light"}
BAD = {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}


def valid(arguments: str) -> bool:
    jsonschema.validate(json.loads(arguments), SCHEMA)
    return True


async def complete(client: AsyncOpenAI, *messages: Any, **options: Any) -> Any:
    return await client.chat.completions.create(
        model=MODEL,
        messages=[HELLO, *messages],
        temperature=0,
        **{"tools": [TOOL], "parallel_tool_calls": False, **options},
    )


async def test_a_call_comes_whole_and_its_result_goes_back(client: AsyncOpenAI) -> None:
    made = await complete(client, tool_choice="required")
    (choice,) = made.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, len(call.id)) == ("function", "set_device", 9)
    assert valid(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"ok": true}'}
    said = choice.message.model_dump(exclude_none=True)
    answered = await complete(client, said, result, tool_choice="none")
    assert answered.choices[0].finish_reason in ("stop", "length")
    assert answered.usage.prompt_tokens > made.usage.prompt_tokens


async def test_a_call_comes_in_pieces(client: AsyncOpenAI) -> None:
    stream = await complete(client, tool_choice=NAMED, stream=True)
    deltas: list[Any] = []
    reasons: list[str | None] = []
    async for chunk in stream:
        (choice,) = chunk.choices
        assert not choice.delta.content
        deltas += choice.delta.tool_calls or []
        reasons.append(choice.finish_reason)
    first, *rest = deltas
    assert (first.index, first.type, first.function.name) == (0, "function", "set_device")
    assert first.function.arguments == ""
    assert len(first.id) == 9
    assert {(piece.index, piece.id) for piece in rest} == {(0, None)}
    assert valid("".join(piece.function.arguments for piece in rest))
    assert len(rest) > 1
    assert [reason for reason in reasons if reason] == ["tool_calls"]


async def test_each_choice_has_its_own_calls(client: AsyncOpenAI) -> None:
    made = await complete(client, tool_choice="required", n=2)
    ids = [choice.message.tool_calls[0].id for choice in made.choices]
    assert len(set(ids)) == 2


async def test_an_answer_has_the_form_that_was_asked_for(client: AsyncOpenAI) -> None:
    schema = {"name": "device", "schema": SCHEMA, "strict": True}
    form = {"type": "json_schema", "json_schema": schema}
    made = await complete(client, tools=[], response_format=form)
    assert valid(made.choices[0].message.content)
    stream = await complete(client, tools=[], response_format=form, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert valid("".join(texts))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_cannot_be_followed_names_its_tool(
    client: AsyncOpenAI, stream: bool
) -> None:
    tool = {"type": "function", "function": {"name": "odd", "parameters": BAD}}
    with pytest.raises(openai.BadRequestError, match="the tool 'odd'") as caught:
        await complete(client, tools=[tool], tool_choice="required", stream=stream)
    assert caught.value.param == "tools"
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": BAD, "strict": True}}
    with pytest.raises(openai.BadRequestError, match="the schema of the answer") as caught:
        await complete(client, tools=[], response_format=form, stream=stream)
    assert caught.value.param == "response_format"


# The Responses API


async def respond(client: AsyncOpenAI, *items: Any, **options: Any) -> Any:
    options = {"tools": [FLAT], "parallel_tool_calls": False, "temperature": 0, **options}
    return await client.responses.create(model=MODEL, input=[HELLO, *items], **options)


async def test_a_response_calls_and_goes_on_from_the_result(client: AsyncOpenAI) -> None:
    made = await respond(client, tool_choice="required")
    (call,) = made.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (made.status, call.status, call.name) == ("completed", "completed", "set_device")
    assert valid(call.arguments)
    assert made.tools[0].model_dump(exclude_none=True) == FLAT
    assert made.tool_choice == "required"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"ok": true}'}
    answered = await respond(client, call.model_dump(), output, tool_choice="none")
    assert answered.output[0].type == "message"
    assert answered.usage.input_tokens > made.usage.input_tokens


async def test_the_events_of_a_call_make_up_its_item(client: AsyncOpenAI) -> None:
    choice = {"type": "function", "name": "set_device"}
    stream = await respond(client, tool_choice=choice, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    delta = "response.function_call_arguments.delta"
    assert [kind for kind in kinds if kind != delta] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    added = next(event.item for event in events if event.type == "response.output_item.added")
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    pieces = "".join(event.delta for event in events if event.type == delta)
    assert (added.arguments, added.status) == ("", "in_progress")
    assert (done.item_id, done.arguments) == (added.id, pieces)
    assert valid(pieces)
    (item,) = events[-1].response.output
    assert (item.id, item.call_id, item.arguments) == (added.id, added.call_id, pieces)


async def test_a_response_has_the_form_that_was_asked_for(client: AsyncOpenAI) -> None:
    form = {"type": "json_schema", "name": "device", "schema": SCHEMA, "strict": True}
    made = await respond(client, tools=[], text={"format": form})
    assert valid(made.output_text)
    assert made.text.format.model_dump(by_alias=True, exclude_none=True) == form
    with pytest.raises(openai.BadRequestError, match="the schema of the answer") as caught:
        await respond(client, tools=[], text={"format": {**form, "schema": BAD}})
    assert caught.value.param == "text.format"
