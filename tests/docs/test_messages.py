"""What the worker says is what docs/protocol.md shows, field by field."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import websockets

from tests.docs.test_pages import message_types, statuses
from tests.support.doc_blocks import all_blocks
from tests.support.running_server import RunningServer
from tests.support.talker import Talker, create, talk

Message = dict[str, Any]
Start = Callable[..., RunningServer]
TRIES = 10


def examples() -> list[Message]:
    blocks = [block for block in all_blocks("json") if block.section == "Server to client"]
    return [message for block in blocks for message in block.messages()]


def kind_of(message: Message) -> str:
    return str(message.get("status", message["type"]))


def shape(value: object) -> Any:
    """The fields of a message with the kinds of their values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    kinds = {bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), type(value).__name__)


async def real_conversation(worker: str, spoken: bytes) -> list[Message]:
    """With the real model: a text, two spoken turns, every control, bad input."""
    config = {"temperature": 0, "interim": True, "transcript": True}
    session = await create(worker, json={"config": config})
    address = worker.replace("http", "ws", 1) + session["websocket_url"]
    async with websockets.connect(address) as socket:
        talker = Talker(socket)
        await talker.text("hello")
        await talker.text("hello", request_id="a1")
        for _ in range(TRIES):
            await speak(talker, spoken, 0.1)
            await talker.until("text_response", source="audio")
            # On a busy machine there may be no time to guess, unless the turn ends late.
            if any(message["type"] == "transcript_partial" for message in talker.seen):
                break
            await talker.send({"type": "config_update", "config": {"silence_ms": 3000}})
        await speak(talker, spoken, 0.0)
        await talker.until("text_response", source="audio")
        for control in ("ping", "get_stats", "cancel", "end_turn", "clear_history", "resume"):
            await talker.control(control)
        await talker.control("sing")
        await talker.send({"type": "config_update", "config": {"vad_sensitivity": 3}})
        await talker.status("config_updated")
        await call_a_tool(talker)
        await talker.until("heartbeat")
    return talker.seen


async def call_a_tool(talker: Talker) -> None:
    """The model is asked to call one, and its result is answered."""
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    offered = [{"type": "function", "name": "set_device", "parameters": schema}]
    choice = {"tool_choice": {"name": "set_device"}, "parallel_tool_calls": False}
    update = {"type": "config_update", "config": {"tools": offered, **choice}}
    await talker.send(update)
    await talker.text("turn on the kitchen light")
    call = await talker.until("tool_call")
    result = {"type": "tool_result", "call_id": call["call_id"], "content": {"ok": True}}
    await talker.send(result)
    await talker.until("text_response", finish_reason="stop")


async def spoken_answer(worker: str) -> list[Message]:
    """With the voice: the first piece of an answer."""
    session = await create(worker, json={"config": {"voice": "default"}})
    address = worker.replace("http", "ws", 1) + session["websocket_url"]
    async with websockets.connect(address) as socket:
        talker = Talker(socket)
        await talker.text("hello")
        return [await talker.until("audio")]


async def speak(talker: Talker, spoken: bytes, pace_s: float) -> None:
    """At 0.1 as fast as one speaks: then there is time to guess the words."""
    for start in range(0, len(spoken), 3200):
        await talker.send(spoken[start : start + 3200])
        await asyncio.sleep(pace_s)


async def hard_times(server: RunningServer, spoken: bytes) -> list[Message]:
    """With an engine that takes its time: interrupted, asked for too much, going away."""
    server.engine.holds = True
    async with talk(server) as talker:
        await talker.text("hello")
        await talker.until("text_delta")
        await talker.send(spoken)
        await talker.status("interrupted")
        for _ in range(66):
            await talker.text("hello", request_id="a2")
        await talker.until("error")
        await asyncio.to_thread(server.thread.drain, 0.1)
        await talker.status("draining")
    return talker.seen


async def long_silence(server: RunningServer) -> list[Message]:
    """Until the session ends by itself."""
    async with talk(server) as talker:
        await talker.closed()
    return talker.seen


async def test_every_message_has_exactly_the_fields_of_its_example(
    worker: str, spoken: bytes, start_server: Start
) -> None:
    said = await real_conversation(worker, spoken)
    said += await spoken_answer(worker)
    said += await hard_times(start_server(), spoken)
    said += await long_silence(start_server(session_idle_timeout_seconds=0.3))
    real = [shape(message) for message in said]
    shown = [shape(message) for message in examples()]
    assert [e for e in examples() if shape(e) not in real] == []
    known = {kind_of(message) for message in examples()}
    assert {kind_of(message) for message in said} - known == set()
    assert len(shown) > 20


def test_every_message_and_status_of_the_worker_has_an_example() -> None:
    assert {message["type"] for message in examples()} == message_types()
    assert statuses() - {kind_of(message) for message in examples()} == set()


@pytest.mark.parametrize(
    ("one", "other"), [({"a": 1}, {"a": "1"}), ({"a": {}}, {"a": {"b": 1}}), ({"a": 1}, {})]
)
def test_a_difference_of_fields_or_kinds_would_be_found(one: Message, other: Message) -> None:
    assert shape(one) != shape(other)
