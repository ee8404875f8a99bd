"""The Python client runs the functions that the model calls, and sends what they come to."""

import asyncio
from typing import Any

import pytest

from tests.client.test_live import Start, until
from tests.support.cuttable_line import CuttableLine
from voxtral_worker.client import (
    Event,
    Failure,
    Response,
    ToolCall,
    Voxtral,
    VoxtralClient,
    VoxtralError,
)
from voxtral_worker.client.journal import Journal
from voxtral_worker.engine import tools

LIGHT = tools.ToolCall("aaaaaaaa1", "light", '{"room": "kitchen", "on": true}')
BROKEN = tools.ToolCall("aaaaaaaa2", "broken", "{}")
WAIT_S = 60


def light(room: str, on: bool = True) -> dict[str, Any]:
    """Switch a light.

    Args:
        room: where it is
    """
    return {"room": room, "on": on}


async def broken() -> None:
    """Never works."""
    raise OSError("no power")


def is_answer(event: Event) -> bool:
    return isinstance(event, Response) and event.finish_reason == "stop"


async def test_functions_are_offered_called_and_answered(start_server: Start) -> None:
    server = start_server()
    server.engine.calls = [(LIGHT, BROKEN)]
    async with VoxtralClient(server.url, tools=[light, broken]) as client:
        await client.send_text("Go")
        events = await until(client, is_answer)
    called = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in called] == [
        ("light", {"room": "kitchen", "on": True}),
        ("broken", {}),
    ]
    assert not [event for event in events if isinstance(event, Failure)]
    first, last = server.engine.requests
    offered = {tool.name: tool.description for tool in first.conversation.tools.tools}
    assert offered == {"light": "Switch a light.", "broken": "Never works."}
    (made,) = last.conversation.rounds
    assert [result.content for result in made.results] == [
        '{"room": "kitchen", "on": true}',
        '{"error": "OSError: no power"}',
    ]


def test_a_program_without_asyncio_has_tools_too(start_server: Start) -> None:
    server = start_server()
    with Voxtral(server.url, tools=[light]) as voxtral:
        # A tool may also be described by hand, and answered by hand.
        voxtral.update(tools=[light, {"type": "function", "name": "broken"}])
        for text, call in (("Go", LIGHT), ("Again", BROKEN)):
            server.engine.calls = [(call,)]
            voxtral.send_text(text)
            for event in voxtral.events():
                if isinstance(event, ToolCall) and event.name == "broken":
                    voxtral.send_tool_result(event, "later", is_error=True)
                if is_answer(event):
                    break
    rounds = [request.conversation.rounds for request in server.engine.requests]
    assert [len(made) for made in rounds] == [0, 1, 0, 1]
    (first,), (second,) = rounds[1::2]
    assert first.results[0].content == '{"room": "kitchen", "on": true}'
    assert second.results[0].content == '{"error": "later"}'


async def test_a_function_that_still_runs_ends_with_the_session(start_server: Start) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        """Wait."""
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    server = start_server()
    server.engine.calls = [(tools.ToolCall("aaaaaaaa3", "wait", "{}"),)]
    async with VoxtralClient(server.url, tools=[wait]) as client:
        await client.send_text("Go")
        await until(client, lambda event: isinstance(event, Response))
        async with asyncio.timeout(WAIT_S):
            await begun.wait()
    assert ended.is_set()


async def test_a_result_is_not_lost_with_its_connection(start_server: Start) -> None:
    server = start_server()
    server.engine.calls = [(LIGHT,)]
    cut = asyncio.Event()

    async def light(room: str, on: bool) -> str:
        """Switch a light."""
        line.cut()
        cut.set()
        return "on"

    line = CuttableLine(server.settings.port)
    try:
        async with VoxtralClient(await line.listen(), tools=[light]) as client:
            await client.send_text("Go")
            events = await until(client, is_answer)
    finally:
        await line.close()
    assert cut.is_set()
    assert not [event for event in events if isinstance(event, Failure)]
    (made,) = server.engine.requests[-1].conversation.rounds
    assert made.results[0].content == "on"


def test_a_function_that_cannot_be_a_tool_is_refused_at_once() -> None:
    def bad(*args: int) -> None: ...

    with pytest.raises(VoxtralError, match="the tool bad"):
        VoxtralClient("http://localhost:8000", tools=[bad])


@pytest.mark.parametrize(
    ("message", "is_held"),
    [
        ({"type": "text_response", "turn_id": "1", "finish_reason": "tool_calls"}, True),
        ({"type": "tool_call", "turn_id": "1"}, True),
        ({"type": "text_delta", "turn_id": "2"}, True),
        ({"type": "text_delta", "turn_id": "1"}, False),
        ({"type": "text_response", "turn_id": "1", "finish_reason": "stop"}, False),
        ({"type": "error", "turn_id": "1"}, False),
    ],
)
def test_a_result_is_held_until_its_turn_goes_on(message: dict[str, Any], is_held: bool) -> None:
    journal = Journal()
    journal.add_message({"type": "tool_result", "call_id": "a"}, is_sent=True, turn_id="1")
    journal.take(message)
    assert bool(journal.missing(0)) == is_held
