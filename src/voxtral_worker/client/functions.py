"""Turns Python functions into tools, with a schema from their annotations and docstrings."""

import asyncio
import dataclasses
import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from voxtral_worker.client.errors import VoxtralError

Function = Callable[..., Any]

_SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# `room: which room` under `Args:`, as Google's style has it, or `:param room: which room`.
_ARGUMENT = re.compile(r"^\s*(?::param\s+)?(\w+)(?:\s*\([^)]*\))?\s*:\s*(.+)$")


@dataclasses.dataclass(frozen=True)
class CallableTool:
    """A function that the model may call, and its definition for the model."""

    function: Function
    definition: dict[str, Any]

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return str(self.definition["name"])


def tool_of(function: Function) -> CallableTool:
    """A function as a tool. Raises VoxtralError that says what cannot be described."""
    name = getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise VoxtralError(f"{function!r} needs a name of 1 to 64 letters, digits or _")
    try:
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise VoxtralError(f"the tool {name}: its annotations cannot be read: {error}") from error
    summary, descriptions = _documentation(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise VoxtralError(f"the tool {name}: *args and **kwargs cannot be described")
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise VoxtralError(f"the tool {name}: {parameter.name} must not be positional-only")
        schema = _schema(hints.get(parameter.name, Any), f"{name}({parameter.name})")
        if parameter.name in descriptions:
            schema = {**schema, "description": descriptions[parameter.name]}
        properties[parameter.name] = schema
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    definition = {
        "type": "function",
        "name": name,
        "description": summary,
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        },
    }
    return CallableTool(function, definition)


async def run(tool: CallableTool, arguments: Mapping[str, Any]) -> tuple[Any, bool]:
    """Run a call. Returns its result, and whether it failed.

    A function that is not async runs in a thread. If the function raises, the model gets the
    error as the result: it may then explain it or try again.
    """
    try:
        if inspect.iscoroutinefunction(tool.function):
            value = await tool.function(**arguments)
        else:
            value = await asyncio.to_thread(tool.function, **arguments)
        # Values that JSON cannot hold become their `str`.
        return json.loads(json.dumps(value, default=str)), False
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the caller's function may raise anything
        return f"{type(error).__name__}: {error}", True


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """The JSON schema of an annotation. Raises VoxtralError."""
    if hint in _SIMPLE:
        return dict(_SIMPLE[hint])
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    # `Union[int, str]` and `int | str` have different origins.
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, where) for each in arguments]}
    if hint in (list, tuple) or origin in (list, Sequence):
        return {"type": "array", "items": _schema(arguments[0], where) if arguments else {}}
    if hint is dict or origin in (dict, Mapping):
        values = _schema(arguments[1], where) if arguments else {}
        return {"type": "object", "additionalProperties": values}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [each.value for each in hint]}
    raise VoxtralError(
        f"the tool {where}: {hint!r} has no JSON form; use str, int, float, bool, None, Literal, "
        "list, dict, an Enum, or a union of these"
    )


def _documentation(text: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring, and its description of each parameter."""
    paragraphs = re.split(
        r"\n\s*\n|\n(?=\s*(?:Args|Arguments|Parameters|:param)\b)", text, maxsplit=1
    )
    summary = " ".join(paragraphs[0].split())
    descriptions = {}
    for line in text.splitlines()[1:]:
        if match := _ARGUMENT.match(line):
            descriptions[match[1]] = match[2].strip()
    return summary, descriptions
