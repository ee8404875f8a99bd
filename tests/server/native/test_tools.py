"""Tools over the documented channels: calls, results, time limits, interruptions, resume."""

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.support.metric_values import value_of
from tests.support.running_server import RunningServer
from tests.support.talker import Talker, create, open_socket, talk
from voxtral_worker import metrics
from voxtral_worker.engine.tools import INTERRUPTED, UNANSWERED, ToolCall
from voxtral_worker.errors import BadSchema

Start = Callable[..., RunningServer]
LIGHT = ToolCall("aaaaaaaa1", "light", '{"on": true, "room": "küche"}')
TIMER = ToolCall("aaaaaaaa2", "timer", "{}")
TOOLS = [
    {"type": "function", "name": "light", "parameters": {"type": "object", "properties": {}}},
    {"type": "function", "function": {"name": "timer"}},
]
CONFIG: dict[str, Any] = {"config": {"tools": TOOLS}}


def counted(outcome: str) -> float:
    return float(value_of(metrics.tool_calls.labels(outcome)))


async def result(talker: Talker, call_id: str, content: Any, **fields: Any) -> None:
    await talker.send({"type": "tool_result", "call_id": call_id, "content": content, **fields})


async def opened(server: RunningServer, **config: Any) -> str:
    session = await create(server.url, json={"config": {"tools": TOOLS, **config}})
    return str(session["session_id"])


async def test_a_call_goes_out_whole_and_its_result_comes_back(server: RunningServer) -> None:
    server.engine.calls = [(LIGHT, TIMER)]
    before = counted("answered"), counted("failed")
    async with talk(server, await opened(server)) as talker:
        await talker.text("Go", request_id="a1")
        called = await talker.until("tool_call")
        assert called["arguments"] == {"on": True, "room": "küche"}
        assert (called["name"], called["call_id"]) == ("light", "aaaaaaaa1")
        other = await talker.until("tool_call", call_id="aaaaaaaa2")
        response = await talker.until("text_response")
        assert response["finish_reason"] == "tool_calls"
        await result(talker, "aaaaaaaa2", "no power", is_error=True)
        await result(talker, "aaaaaaaa1", {"ok": "läuft"})
        last = await talker.until("text_response")
    assert (last["turn_id"], last["text"], last["finish_reason"]) == ("1", "You said so.", "stop")
    assert last["metrics"]["tool_ms"] >= 0
    assert "tool_ms" not in response["metrics"]
    numbered = [message for message in talker.seen if "seq" in message]
    assert [message["seq"] for message in numbered] == list(range(1, len(numbered) + 1))
    assert {message.get("request_id") for message in (called, other, response, last)} == {"a1"}
    (made,) = server.engine.requests[-1].conversation.rounds
    contents = [each.content for each in made.results]
    assert contents == ['{"ok": "läuft"}', '{"error": "no power"}']
    assert (counted("answered"), counted("failed")) == (before[0] + 1, before[1] + 1)


async def test_a_call_that_was_missed_comes_again(server: RunningServer) -> None:
    server.engine.calls = [(LIGHT,)]
    session_id = await opened(server)
    async with talk(server, session_id) as talker:
        await talker.text("Go")
        called = await talker.until("tool_call")
    query = f"?last_seq={called['seq'] - 1}"
    async with talk(server, session_id, query=query) as talker:
        assert await talker.until("tool_call") == called
        await result(talker, called["call_id"], None)
        assert (await talker.until("text_response", finish_reason="stop"))["turn_id"] == "1"


async def test_a_result_in_vain_is_an_error_and_nothing_else(server: RunningServer) -> None:
    server.engine.calls = [(LIGHT,)]
    async with talk(server, await opened(server)) as talker:
        await result(talker, "aaaaaaaa1", "early")
        error = await talker.until("error")
        assert error["code"] == "CALL_NOT_FOUND"
        assert "'aaaaaaaa1'" in error["error"]
        await talker.text("Go")
        await talker.until("text_response", finish_reason="tool_calls")
        await talker.control("cancel")
        await talker.status("cancelled")
        assert (await talker.until("text_response"))["finish_reason"] == "interrupted"
        await result(talker, "aaaaaaaa1", "late")
        assert (await talker.until("error"))["code"] == "CALL_NOT_FOUND"
        await talker.text("Again")
        await talker.until("text_response", finish_reason="stop")
    (exchange,) = server.engine.requests[-1].conversation.history
    assert exchange.rounds[0].results[0].content == INTERRUPTED


async def test_the_model_is_told_of_a_tool_that_does_not_answer(server: RunningServer) -> None:
    server.engine.calls = [(LIGHT,)]
    before = counted("timed_out")
    async with talk(server, await opened(server, tool_timeout_ms=50)) as talker:
        await talker.text("Go")
        await talker.until("text_response", finish_reason="stop")
    (made,) = server.engine.requests[-1].conversation.rounds
    assert made.results[0].content == UNANSWERED
    assert counted("timed_out") == before + 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"content": "a"}, "call_id is null"),
        ({"call_id": 7, "content": "a"}, "call_id is 7"),
        ({"call_id": "aaaaaaaa1"}, "content is missing"),
        (
            {"call_id": "aaaaaaaa1", "content": "a", "is_error": "yes"},
            "is_error is 'yes', but must be true",
        ),
        ({"call_id": "aaaaaaaa1", "content": "\ud800"}, "half a surrogate pair"),
        ({"call_id": "aaaaaaaa1", "content": "x" * 40_000}, "40000 characters, but may have 32768"),
    ],
)
async def test_a_result_that_cannot_be_read_is_told(
    server: RunningServer, fields: dict[str, Any], told: str
) -> None:
    async with talk(server) as talker:
        await talker.send({"type": "tool_result", **fields})
        assert told in (await talker.until("error"))["error"]


async def test_a_tool_that_cannot_be_called_is_refused_at_every_door(server: RunningServer) -> None:
    async def refused(**request: Any) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{server.url}/session/create", **request) as response,
        ):
            assert response.status == 400
            answer: dict[str, Any] = await response.json()
            return answer

    unnamed = {"config": {"tools": [{"type": "function", "name": "é"}]}}
    assert "tools[0].name" in (await refused(json=unnamed))["error"]
    choice = {"config": {"tools": TOOLS, "tool_choice": {"name": "door"}}}
    assert "'door', but there is no such tool" in (await refused(json=choice))["error"]
    server.engine.bad_tools = BadSchema("the parameters of the tool 'light' cannot", "tools")
    assert "the tool 'light'" in (await refused(json=CONFIG))["error"]
    async with talk(server) as talker:
        await talker.send({"type": "config_update", **CONFIG})
        error = await talker.until("error")
        assert (error["code"], "'light'" in error["error"]) == ("INVALID_REQUEST", True)
        await talker.text("Go")
        await talker.until("text_response")
    assert server.engine.requests[-1].conversation.tools.tools == ()
    query = '{"tools": [{"type": "function", "name": "light"}]}'
    async with open_socket(f"{server.ws_url}/ws/audio", config=query) as talker:
        assert "'light'" in (await talker.until("error"))["error"]
        assert await talker.closed() == 4400


async def test_tools_may_change_between_turns(server: RunningServer) -> None:
    async with talk(server, await opened(server, tool_choice="required")) as talker:
        await talker.text("Go")
        await talker.until("text_response")
        assert server.engine.requests[-1].conversation.tools.must_call
        changes = {"tools": TOOLS[:1], "tool_choice": {"name": "light"}}
        await talker.send({"type": "config_update", "config": changes})
        config = (await talker.status("config_updated"))["config"]
        assert config["tool_choice"] == {"name": "light"}
        assert [tool["name"] for tool in map(flat, config["tools"])] == ["light"]
        await talker.text("Go")
        await talker.until("text_response")
        assert server.engine.requests[-1].conversation.tools.named == "light"


def flat(tool: dict[str, Any]) -> dict[str, Any]:
    return dict(tool.get("function", tool))
