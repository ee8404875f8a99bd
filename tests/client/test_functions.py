"""A plain function is a tool: what the model reads of it is its annotations and docstring."""

import enum
from typing import Any, Literal

import pytest

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.functions import run, tool_of


class Room(enum.Enum):
    KITCHEN = "kitchen"
    BATH = "bath"


def set_device(
    room: Room,
    device: Literal["light", "heater"],
    on: bool,
    level: int | None = None,
    tags: list[str] = [],  # noqa: B006
) -> str:
    """Switch a device on or off,
    or dim it.

    Args:
        room: which room it is in
        level (int): how bright, in percent
    """
    return f"{room} {device} {on} {level} {tags}"


async def fail(reason: str) -> None:
    """Fail.

    :param reason: why
    """
    raise RuntimeError(reason)


def test_annotations_and_docstring_are_the_schema() -> None:
    assert tool_of(set_device).definition == {
        "type": "function",
        "name": "set_device",
        "description": "Switch a device on or off, or dim it.",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"enum": ["kitchen", "bath"], "description": "which room it is in"},
                "device": {"enum": ["light", "heater"]},
                "on": {"type": "boolean"},
                "level": {
                    "anyOf": [{"type": "integer"}, {"type": "null"}],
                    "description": "how bright, in percent",
                },
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["room", "device", "on"],
            "additionalProperties": False,
        },
    }
    assert tool_of(fail).definition["parameters"]["properties"] == {
        "reason": {"type": "string", "description": "why"}
    }


def bare(a, b: dict[str, float], c: dict = {}):  # type: ignore[no-untyped-def,type-arg]  # noqa: ANN001, ANN201, B006
    return {"a": a, "odd": {1, 2}}


def test_what_is_not_annotated_may_be_anything() -> None:
    parameters = tool_of(bare).definition["parameters"]
    assert parameters["properties"] == {
        "a": {},
        "b": {"type": "object", "additionalProperties": {"type": "number"}},
        "c": {"type": "object", "additionalProperties": {}},
    }


def many(*args: int) -> None: ...
def some(**kwargs: int) -> None: ...
def first(a: int, /) -> None: ...
def strange(a: complex) -> None: ...
def lost(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("function", [many, some, first, strange, lost, lambda: None])
def test_a_function_that_cannot_be_described_is_named(function: Any) -> None:
    with pytest.raises(VoxtralError, match=function.__name__):
        tool_of(function)


async def test_a_call_runs_the_function_whether_it_waits_or_not() -> None:
    assert await run(tool_of(bare), {"a": 1, "b": {}}) == ({"a": 1, "odd": "{1, 2}"}, False)
    assert await run(tool_of(fail), {"reason": "no power"}) == ("RuntimeError: no power", True)
    result, is_error = await run(tool_of(bare), {"x": 1})
    assert is_error
    assert "unexpected keyword argument" in result
