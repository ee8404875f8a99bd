"""What callers say of tools is read in OpenAI's shapes, or refused by name."""

import json
from typing import Any

import pytest

from voxtral_worker.engine.tool_options import read_toolbox, read_tools
from voxtral_worker.engine.tools import Tool, Toolbox, known_call_id
from voxtral_worker.errors import BadInput

NESTED = {"type": "function", "function": {"name": "wait", "parameters": {"type": "object"}}}
WAIT = Tool("wait", "", '{"type": "object"}')


def tool(**parameters: Any) -> dict[str, Any]:
    return {"type": "function", "name": "wait", "parameters": {"type": "object", **parameters}}


@pytest.mark.parametrize(
    "value", [NESTED, tool(), {"name": "wait", "parameters": tool()["parameters"]}]
)
def test_tools_are_nested_or_flat(value: dict[str, Any]) -> None:
    assert read_tools([value], "tools") == (WAIT,)


def test_a_tool_without_parameters_takes_none() -> None:
    (read,) = read_tools([{"type": "function", "name": "wait"}], "tools")
    assert json.loads(read.parameters) == {"type": "object", "properties": {}}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7, "tools must be a list of at most 64 tools"),
        ([tool()] * 65, "at most 64"),
        (["wait"], r"tools\[0\] must be an object"),
        ([{"type": "web_search"}], r"tools\[0\].type is 'web_search', but must be function"),
        ([{"type": "function", "function": []}], r"tools\[0\].function must be an object"),
        ([{"name": "läuft"}], r"tools\[0\].name is 'l\\xe4uft', but must have 1 to 64"),
        ([{"name": "wait", "description": 7}], "description of the tool 'wait'"),
        ([{"name": "wait", "description": "\ud800"}], "description of the tool 'wait'"),
        ([{"name": "wait", "strict": "yes"}], "strict of the tool 'wait'"),
        ([{"name": "wait", "parameters": []}], "parameters of the tool 'wait'"),
        ([{"name": "wait", "parameters": {"type": "string"}}], "parameters of the tool 'wait'"),
        ([tool(), tool()], "two tools with the name 'wait'"),
        ([tool(title="x" * 40_000)], "'wait'.*: the schema has 4.... bytes, but may have 32768"),
        ([tool(properties={"a": deep(30)})], "'wait'.*nested deeper than 24"),
        ([tool(properties={"a": {"enum": list(range(2000))}})], "'wait'.*an enum has 2000 values"),
        ([tool(properties={"a": {"pattern": "a" * 300}})], "'wait'.*a pattern has 300 characters"),
        ([tool(properties={"a": {"multipleOf": 999_983}})], "'wait'.*multipleOf"),
        ([tool(properties={"a": {"multipleOf": 0.999983}})], "'wait'.*multipleOf"),
        ([tool(properties={"a": {"multipleOf": 1e300}})], "'wait'.*multipleOf"),
        ([tool(default=float("nan"))], "'wait'.*cannot be written as JSON"),
        ([tool(default="\ud800")], "'wait'.*cannot be written as JSON"),
    ],
)
def test_a_tool_that_cannot_be_used_is_named(value: object, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        read_tools(value, "tools")


def test_all_tools_together_have_a_bound() -> None:
    many = [{"name": f"tool{n}", "description": "x" * 2000} for n in range(20)]
    with pytest.raises(BadInput, match="but may take 32768"):
        read_tools(many, "tools")


@pytest.mark.parametrize(
    ("choice", "box"),
    [
        (None, Toolbox((WAIT,))),
        ("auto", Toolbox((WAIT,))),
        ("none", Toolbox((WAIT,), "none")),
        ("required", Toolbox((WAIT,), "required")),
        ({"name": "wait"}, Toolbox((WAIT,), named="wait")),
        ({"type": "function", "name": "wait"}, Toolbox((WAIT,), named="wait")),
        ({"type": "function", "function": {"name": "wait"}}, Toolbox((WAIT,), named="wait")),
    ],
)
def test_a_choice_is_a_word_or_names_a_tool(choice: object, box: Toolbox) -> None:
    assert read_toolbox((WAIT,), choice, None) == box


@pytest.mark.parametrize(
    ("choice", "parallel", "told"),
    [
        ("any", None, "tool_choice is 'any', but must be auto, none, required"),
        (7, None, "tool_choice is 7"),
        ({"type": "custom", "name": "wait"}, None, "tool_choice is"),
        ({"name": "open"}, None, "tool_choice names 'open', but there is no such tool"),
        ("auto", "yes", "parallel_tool_calls is 'yes', but must be true or false"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: object, parallel: object, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        read_toolbox((WAIT,), choice, parallel)


def test_nothing_can_be_required_of_no_tools() -> None:
    with pytest.raises(BadInput, match="there are no tools"):
        read_toolbox((), "required", None)


def test_a_choice_holds_for_one_round() -> None:
    assert Toolbox((WAIT,), "required", None, False).freed() == Toolbox((WAIT,), parallel=False)
    assert Toolbox((WAIT,), named="wait").freed() == Toolbox((WAIT,))
    assert Toolbox((WAIT,), "none").freed() == Toolbox((WAIT,), "none")


def test_an_id_of_another_form_becomes_nine_characters_the_same_each_time() -> None:
    assert known_call_id("abcdefgh1") == "abcdefgh1"
    made = known_call_id("call_1234567890")
    assert made == known_call_id("call_1234567890") != known_call_id("call_1234567891")
    assert len(made) == 9
    assert made.isalnum()
