"""Reads the tools that callers offer, in OpenAI's shapes."""

import dataclasses
import json
import re
from decimal import Decimal
from typing import Any

from voxtral_worker.engine.request import AnswerSchema
from voxtral_worker.engine.tools import Tool, Toolbox, ToolCall, ToolChoice
from voxtral_worker.errors import BadInput, shown
from voxtral_worker.values.may import is_clean

MAX_TOOLS = 64
# Limit of all definitions together; about 10,000 tokens.
MAX_TOOLS_BYTES = 32 << 10
MAX_SCHEMA_DEPTH = 24
MAX_ENUM_VALUES = 1024
MAX_PATTERN_CHARACTERS = 256
# The compiler makes a state for each remainder; a million of them take 30 s.
MAX_REMAINDERS = 10_000
MAX_CALL_ID = 256
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CHOICES: tuple[ToolChoice, ...] = ("auto", "none", "required")


def read_tools(value: object, path: str) -> tuple[Tool, ...]:
    """Function tools, nested under `function` or flat.

    Raises BadInput that names the tool, where it has a name, and else its place.
    """
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise BadInput(f"{path} must be a list of at most {MAX_TOOLS} tools")
    tools = tuple(_tool(each, f"{path}[{index}]") for index, each in enumerate(value))
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{path} has two tools with the name {twice!r}")
    size = sum(len(json.dumps(tool.as_prompt()).encode()) for tool in tools)
    if size > MAX_TOOLS_BYTES:
        raise BadInput(f"{path} takes {size} bytes as JSON, but may take {MAX_TOOLS_BYTES}")
    return tools


def read_toolbox(
    tools: tuple[Tool, ...], choice: object, parallel: object, path: str = "tool_choice"
) -> Toolbox:
    """The tools that are offered, and which of them must be called. Raises BadInput."""
    if parallel is not None and not isinstance(parallel, bool):
        raise BadInput(f"parallel_tool_calls is {shown(parallel)}, but must be true or false")
    box = Toolbox(tools, parallel=parallel is not False)
    if choice is None:
        return box
    for known in CHOICES:
        if choice == known:
            if known == "required" and not tools:
                raise BadInput(f"{path} is 'required', but there are no tools")
            return dataclasses.replace(box, choice=known)
    return dataclasses.replace(box, named=_named(choice, tools, path))


def read_calls(value: object, path: str) -> tuple[ToolCall, ...]:
    """Calls of a message, in the shape of OpenAI's chat completions. Raises BadInput."""
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise BadInput(f"{path} must be a list of at most {MAX_TOOLS} calls")
    return tuple(_call(each, f"{path}[{index}]") for index, each in enumerate(value))


def _call(value: object, path: str) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict):
        raise BadInput(f"{path} must be an object with an id and a function")
    if value.get("type", "function") != "function":
        raise BadInput(f"{path}.type is {shown(value['type'])}, but must be function")
    return ToolCall(
        read_call_id(value.get("id"), f"{path}.id"),
        read_name(function.get("name"), f"{path}.function.name"),
        read_arguments(function.get("arguments"), f"{path}.function.arguments"),
    )


def read_arguments(value: object, path: str) -> str:
    """The arguments of a call; nothing stands for none. Raises BadInput."""
    if value in (None, ""):
        return "{}"
    if not isinstance(value, str) or not is_clean(value):
        raise BadInput(f"{path} is {shown(value)}, but must be a text of JSON")
    return value


def read_name(value: object, path: str) -> str:
    """The name of a tool. Raises BadInput."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise BadInput(f"{path} is {shown(value)}, but must have 1 to 64 letters, digits, _ or -")
    return value


def read_call_id(value: object, path: str) -> str:
    """The id of a call, which another server may have made. Raises BadInput."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CALL_ID or not is_clean(value):
        raise BadInput(f"{path} is {shown(value)}, but must be the id of a call")
    return value


def read_response_format(value: object, path: str) -> AnswerSchema | None:
    """The format of an answer: `text`, `json_object` or `json_schema`. Raises BadInput.

    The schema stands under `json_schema`, or next to the type.
    """
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    match kind:
        case "text":
            return None
        case "json_object":
            return AnswerSchema('{"type": "object"}')
        case "json_schema":
            assert isinstance(value, dict)
            inner = value.get("json_schema", value)
            schema = inner.get("schema") if isinstance(inner, dict) else None
            where = f"{path}.json_schema" if inner is not value else path
            if not isinstance(schema, dict):
                raise BadInput(f"{where}.schema must be a JSON schema")
            strict = inner.get("strict")
            if strict is not None and not isinstance(strict, bool):
                raise BadInput(f"{where}.strict is {shown(strict)}, but must be true or false")
            return AnswerSchema(schema_text(schema, f"{where}.schema"), bool(strict))
    allowed = "an object whose type is text, json_object or json_schema"
    raise BadInput(f"{path} is {shown(value)}, but must be {allowed}")


def _named(choice: object, tools: tuple[Tool, ...], path: str) -> str:
    allowed = f'{", ".join(CHOICES)}, or {{"name": "..."}} of one of the tools'
    if isinstance(choice, dict):
        inner = choice.get("function")
        name = inner.get("name") if isinstance(inner, dict) else choice.get("name")
        if choice.get("type", "function") == "function" and isinstance(name, str):
            if name not in [tool.name for tool in tools]:
                raise BadInput(f"{path} names {shown(name)}, but there is no such tool")
            return name
    raise BadInput(f"{path} is {shown(choice)}, but must be {allowed}")


def _tool(value: object, path: str) -> Tool:
    if not isinstance(value, dict):
        raise BadInput(f"{path} must be an object with a type, a name and parameters")
    if value.get("type", "function") != "function":
        raise BadInput(f"{path}.type is {shown(value['type'])}, but must be function")
    function = value.get("function", value)
    if not isinstance(function, dict):
        raise BadInput(f"{path}.function must be an object with a name and parameters")
    name = read_name(function.get("name"), f"{path}.name")
    description = function.get("description")
    of_tool = f"the tool {name!r} ({path})"
    if description is not None and not (isinstance(description, str) and is_clean(description)):
        raise BadInput(f"the description of {of_tool} must be a text")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise BadInput(f"strict of {of_tool} is {shown(strict)}, but must be true or false")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise BadInput(f"the parameters of {of_tool} must be a JSON schema of an object")
    text = schema_text(parameters, f"the parameters of {of_tool}")
    return Tool(name, description or "", text, bool(strict))


def schema_text(schema: object, what: str) -> str:
    """The JSON text of a schema. Raises BadInput whose sentence begins with `what`."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (ValueError, RecursionError):
        raise BadInput(f"{what} cannot be written as JSON") from None
    if size > MAX_TOOLS_BYTES:
        raise BadInput(f"{what}: the schema has {size} bytes, but may have {MAX_TOOLS_BYTES}")
    if told := _too_costly(schema):
        raise BadInput(f"{what}: {told}")
    return text


def _too_costly(schema: object) -> str | None:
    """The reason why a schema would take too long to compile, or None."""
    remainders = 0
    waiting: list[tuple[object, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_SCHEMA_DEPTH:
            return f"the schema is nested deeper than {MAX_SCHEMA_DEPTH}"
        if isinstance(value, dict):
            if told := _costly_words(value):
                return told
            remainders += _remainders(value.get("multipleOf"))
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
    if remainders > MAX_REMAINDERS:
        return f"multipleOf, without its point, may be {MAX_REMAINDERS} in all"
    return None


def _costly_words(schema: dict[str, Any]) -> str | None:
    enum, pattern = schema.get("enum"), schema.get("pattern")
    if isinstance(enum, list) and len(enum) > MAX_ENUM_VALUES:
        return f"an enum has {len(enum)} values, but may have {MAX_ENUM_VALUES}"
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"a pattern has {len(pattern)} characters, but may have {MAX_PATTERN_CHARACTERS}"
    return None


def _remainders(multiple: object) -> int:
    """What a number may leave when it is divided by `multiple`, without their points."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float):
        return 0
    sign_digits_exponent = Decimal(str(multiple)).as_tuple()
    digits = int("".join(map(str, sign_digits_exponent.digits)))
    exponent = sign_digits_exponent.exponent
    return digits * 10 ** min(9, max(0, exponent)) if isinstance(exponent, int) else digits
