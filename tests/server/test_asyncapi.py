"""The description of the sockets is whole, and true of what the worker understands."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.support.fuzz_messages import SEEDS, mutations
from tests.support.message_schema import problem_with
from tests.support.running_server import RunningServer
from tests.support.talker import open_socket
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.asyncapi import sockets
from voxtral_worker.server.native.messages import CONTROL_TYPES, parse

DESCRIPTION = sockets()
MESSAGES = DESCRIPTION["components"]["messages"]
RECEIVED = {"TextInput", "Control", "Resume", "Played", "ConfigUpdate", "ToolResult"}
GOOD: list[dict[str, Any]] = [
    *SEEDS,
    {"type": "control", "control_type": "played", "turn_id": "1", "played_ms": 8.5},
    {"type": "tool_result", "call_id": "a1", "content": None},
    {"type": "tool_result", "call_id": "a1", "content": {"ok": True}, "is_error": None},
    {"type": "text_input", "text": "a", "request_id": 7},
]
REGISTRY: Registry[Any] = Registry().with_resource(
    "urn:sockets",
    Resource.from_contents(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **DESCRIPTION}
    ),
)


def matching(message: object) -> set[str]:
    """The described messages of clients that a message may be."""
    return {
        name
        for name in RECEIVED
        if Draft202012Validator(
            {"$ref": f"urn:sockets#/components/schemas/{name}"}, registry=REGISTRY
        ).is_valid(message)
    }


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DESCRIPTION))
    assert len(found) > 40
    for reference in found:
        place: Any = DESCRIPTION
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_the_description_has_the_parts_that_asyncapi_demands() -> None:
    assert DESCRIPTION["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DESCRIPTION["info"].keys()
    for channel in DESCRIPTION["channels"].values():
        variables = {"session_id"} if "{session_id}" in channel["address"] else set()
        assert channel.get("parameters", {}).keys() == variables
    for operation in DESCRIPTION["operations"].values():
        assert operation["action"] in ("send", "receive")
        # Messages of an operation are referred to by way of its channel.
        channel = operation["channel"]["$ref"]
        assert all(
            each["$ref"].startswith(f"{channel}/messages/") for each in operation["messages"]
        )


def test_every_payload_is_a_json_schema() -> None:
    for schema in (*DESCRIPTION["components"]["schemas"].values(), *map(payload, MESSAGES)):
        Draft202012Validator.check_schema(schema)


def payload(name: str) -> Any:
    return MESSAGES[name]["payload"]


def test_every_control_is_described() -> None:
    for name in CONTROL_TYPES:
        message = {"type": "control", "control_type": name, "turn_id": "1", "played_ms": 1}
        assert len(matching(message)) == 1


@pytest.mark.parametrize("message", GOOD, ids=json.dumps)
def test_a_good_message_is_one_of_those_described(message: dict[str, Any]) -> None:
    parse(json.dumps(message))
    assert len(matching(message)) == 1


def test_what_the_worker_takes_is_described_and_most_of_what_it_refuses_is_not() -> None:
    refused = undescribed = 0
    for text in mutations():
        try:
            parse(text)
        except WorkerError:
            refused += 1
            try:
                undescribed += not matching(json.loads(text))
            except ValueError:
                undescribed += 1
        else:
            assert matching(json.loads(text)), text
    assert refused > 100
    # A schema cannot say that blanks or half of a surrogate pair are not a text.
    assert undescribed > 0.8 * refused


async def test_the_worker_serves_it_to_anybody(server: RunningServer) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/asyncapi.json") as told:
        assert told.status == 200
        assert await told.json() == json.loads(json.dumps(DESCRIPTION))


@pytest.mark.parametrize("keys", [(), ("a key",)])
async def test_the_first_message_of_a_session_that_its_socket_creates_is_described(
    start_server: Callable[..., RunningServer], keys: tuple[str, ...]
) -> None:
    server = start_server(api_keys=keys)
    query = {"token": keys[0]} if keys else {}
    async with open_socket(f"{server.ws_url}/ws/audio", **query) as talker:
        connected = await talker.status("connected")
    assert {"websocket_url", "control_url", "expires_in"} <= connected.keys()
    assert ("token" in connected) == bool(keys)
    assert problem_with(connected) is None
