"""Tools on the realtime socket, through OpenAI's own client."""

import json
from typing import Any

import pytest

from tests.server.openai.realtime.test_edges import calling
from tests.support.realtime_caller import Caller, manual, words
from tests.support.running_server import RunningServer
from voxtral_worker.engine.request import CallStarted
from voxtral_worker.engine.tools import INTERRUPTED, ToolCall
from voxtral_worker.errors import BadSchema

LIGHT = ToolCall("aaaaaaaa1", "light", '{"on": true}')
TIMER = ToolCall("aaaaaaaa2", "timer", '{"s": 5}')
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": name,
        "description": "",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    }
    for name in ("light", "timer")
]
ARGUMENTS = "response.function_call_arguments"


async def offer(caller: Caller, **session: Any) -> Any:
    return await caller.update(audio=manual(), tools=TOOLS, **session)


async def give(caller: Caller, call_id: str, output: str) -> None:
    item: Any = {"type": "function_call_output", "call_id": call_id, "output": output}
    await caller.connection.conversation.item.create(item=item)


async def test_a_call_is_an_item_and_its_result_is_answered_when_asked_for(
    server: RunningServer,
) -> None:
    server.engine.calls = [(LIGHT,)]
    async with calling(server) as caller:
        shown = await offer(caller, tool_choice="auto")
        assert [tool.name for tool in shown.tools] == ["light", "timer"]
        await caller.say("Go")
        await caller.until("conversation.item.done")
        caller.seen.clear()
        await caller.connection.response.create()
        response = await caller.answer()
        assert caller.kinds() == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            f"{ARGUMENTS}.delta",
            f"{ARGUMENTS}.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        assert response.status == "completed"
        (item,) = response.output
        assert (item.type, item.status, item.name) == ("function_call", "completed", "light")
        assert (item.call_id, item.arguments) == (LIGHT.call_id, LIGHT.arguments)
        deltas = [event for event in caller.seen if event.type == f"{ARGUMENTS}.delta"]
        assert "".join(event.delta for event in deltas) == LIGHT.arguments
        assert {(event.item_id, event.call_id) for event in deltas} == {(item.id, LIGHT.call_id)}
        added = next(e for e in caller.seen if e.type == "response.output_item.added")
        assert (added.item.arguments, added.item.status) == ("", "in_progress")
        # The server does not continue by itself.
        await give(caller, LIGHT.call_id, '{"ok": true}')
        echoed = (await caller.until("conversation.item.done")).item
        assert (echoed.type, echoed.output) == ("function_call_output", '{"ok": true}')
        assert len(server.engine.requests) == 1
        await caller.connection.response.create()
        assert words(await caller.answer()) == "You said so."
    (made,) = server.engine.requests[-1].conversation.rounds
    assert made.results[0].content == '{"ok": true}'


async def test_words_and_calls_of_a_response_are_items_in_order(server: RunningServer) -> None:
    server.engine.holds = True
    async with calling(server) as caller:
        await offer(caller)
        await caller.say("Go")
        await caller.connection.response.create()
        await caller.until("response.output_text.delta")
        (generation,) = server.engine.held
        server.engine.call(generation, LIGHT, TIMER)
        response = await caller.answer()
        kinds = [item.type for item in response.output]
        assert kinds == ["message", "function_call", "function_call"]
        assert response.output[0].content[0].text == "You "
        done = [event for event in caller.seen if event.type == "response.output_item.done"]
        assert [event.output_index for event in done] == [0, 1, 2]


async def test_a_response_has_tools_of_its_own(server: RunningServer) -> None:
    async with calling(server) as caller:
        await offer(caller)
        await caller.say("Go")
        choice = {"type": "function", "name": "timer"}
        await caller.connection.response.create(response={"tool_choice": choice})
        await caller.answer()
        assert server.engine.requests[-1].conversation.tools.named == "timer"
        await caller.say("Go")
        await caller.connection.response.create(response={"tools": TOOLS[:1]})
        await caller.answer()
        assert [tool.name for tool in server.engine.requests[-1].conversation.tools.tools] == [
            "light"
        ]
        await caller.say("Go")
        await caller.connection.response.create()
        await caller.answer()
        assert len(server.engine.requests[-1].conversation.tools.tools) == 2


async def test_tools_change_in_mid_session(server: RunningServer) -> None:
    async with calling(server) as caller:
        await offer(caller, tool_choice={"type": "function", "name": "timer"})
        shown = await caller.update(tools=TOOLS[:1])
        # The tool that was named is gone.
        assert shown.tool_choice == "auto"
        shown = await caller.update(tool_choice="none")
        assert len(shown.tools) == 1
        shown = await caller.update(tools=[])
        assert shown.tools == []


async def test_a_result_in_vain_and_an_answer_too_soon_are_told(server: RunningServer) -> None:
    server.engine.calls = [(LIGHT,)]
    async with calling(server) as caller:
        await offer(caller)
        await give(caller, "aaaaaaaa1", "early")
        assert (await caller.error()).code == "call_not_found"
        await caller.say("Go")
        await caller.connection.response.create()
        await caller.answer()
        await caller.connection.response.create()
        assert "'aaaaaaaa1' of a tool has no result yet" in (await caller.error()).message
        await caller.say("Never mind")
        await caller.connection.response.create()
        await caller.answer()
    (exchange,) = server.engine.requests[-1].conversation.history
    assert exchange.rounds[0].results[0].content == INTERRUPTED


async def test_a_history_with_calls_may_be_told(server: RunningServer) -> None:
    async with calling(server) as caller:
        await offer(caller)
        await caller.say("Go")
        made: Any = {
            "type": "function_call",
            "call_id": "call_of_another_server",
            "name": "light",
            "arguments": "{}",
        }
        await caller.connection.conversation.item.create(item=made)
        await give(caller, "call_of_another_server", "on")
        said: Any = {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Done."}],
        }
        await caller.connection.conversation.item.create(item=said)
        await caller.say("Again")
        await caller.connection.response.create()
        await caller.answer()
        wished: Any = [
            {"type": "message", "role": "user", "content": "Go"},
            made,
            {"type": "function_call_output", "call_id": made["call_id"], "output": "off"},
        ]
        await caller.connection.response.create(response={"conversation": "none", "input": wished})
        await caller.answer()
    first, second = server.engine.requests[-2:]
    (exchange,) = first.conversation.history
    (before,) = exchange.rounds
    assert (before.calls[0].name, before.results[0].content) == ("light", "on")
    (now,) = second.conversation.rounds
    assert now.results[0].content == "off"
    dangling: Any = {"conversation": "none", "input": wished[:2]}
    async with calling(server) as caller:
        await caller.connection.response.create(response=dangling)
        assert "'call_of_another_server' of a tool has no result" in (await caller.error()).message


async def test_an_interrupted_call_is_incomplete(server: RunningServer) -> None:
    server.engine.holds = True
    async with calling(server) as caller:
        await offer(caller)
        await caller.say("Go")
        await caller.connection.response.create()
        await caller.until("response.output_text.delta")
        (generation,) = server.engine.held
        generation.report(CallStarted(0, LIGHT.call_id, "light"))
        await caller.until("response.output_item.done")
        await caller.connection.response.cancel()
        response = await caller.answer()
    assert response.status == "cancelled"
    assert [(item.type, item.status) for item in response.output] == [
        ("message", "completed"),
        ("function_call", "incomplete"),
    ]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"type": "function_call", "name": "f"}, "item.call_id is null"),
        ({"type": "function_call", "call_id": "a", "name": "é"}, "item.name is"),
        ({"type": "function_call_output", "output": "a"}, "item.call_id is null"),
        ({"type": "function_call_output", "call_id": "a", "output": 7}, "item.output is 7"),
        ({"type": "mcp_call"}, "item.type is 'mcp_call', but items may be messages, function_call"),
    ],
)
async def test_an_item_that_cannot_be_used_is_told(
    server: RunningServer, item: dict[str, Any], told: str
) -> None:
    async with calling(server) as caller:
        event: Any = {"type": "conversation.item.create", "item": item}
        await caller.connection.send(json.loads(json.dumps(event)))
        assert told in (await caller.error()).message


async def test_tools_that_cannot_be_followed_are_refused(server: RunningServer) -> None:
    server.engine.bad_tools = BadSchema("the parameters of the tool 'light' cannot", "tools")
    async with calling(server) as caller:
        update: Any = {"type": "session.update", "session": {"type": "realtime", "tools": TOOLS}}
        await caller.connection.send(update)
        assert "the tool 'light'" in (await caller.error()).message
        await caller.connection.response.create(response={"tools": TOOLS})
        assert "the tool 'light'" in (await caller.error()).message


async def test_a_choice_may_be_said_before_the_tools_that_it_is_of(server: RunningServer) -> None:
    server.engine.calls = [(LIGHT,)]
    async with calling(server) as caller:
        shown = await caller.update(audio=manual(), tool_choice="required", tools=[])
        assert (shown.tool_choice, shown.tools) == ("required", [])
        # Frameworks send their instructions in between.
        shown = await caller.update(instructions="Be kind.")
        assert shown.tool_choice == "required"
        shown = await caller.update(tools=TOOLS)
        assert shown.tool_choice == "required"
        await caller.say("Go")
        await caller.connection.response.create()
        await caller.answer()
    assert server.engine.requests[-1].conversation.tools.must_call


async def test_without_tools_a_required_call_is_an_answer_in_words(server: RunningServer) -> None:
    async with calling(server) as caller:
        await caller.update(audio=manual(), tool_choice="required")
        await caller.say("Go")
        await caller.connection.response.create()
        assert words(await caller.answer())
