"""Reads what OpenAI's REST calls say of tools and of the form of an answer."""

from collections.abc import Callable
from typing import TypeVar

from voxtral_worker.engine.request import AnswerSchema
from voxtral_worker.engine.tool_options import (
    read_calls,
    read_response_format,
    read_toolbox,
    read_tools,
)
from voxtral_worker.engine.tools import NO_TOOLS, Toolbox, ToolCall
from voxtral_worker.errors import BadInput
from voxtral_worker.server.openai.errors import within
from voxtral_worker.server.openai.options import Options

T = TypeVar("T")

TOOL_KEYS = ("tools", "tool_choice", "parallel_tool_calls")


def toolbox_of(options: Options, before: Toolbox = NO_TOOLS, *, may_come: bool = False) -> Toolbox:
    """What a request offers; what it does not say is as before.

    `may_come`: `required` may be said before there are tools, and holds once there are. Raises
    BadOption, or reports it.
    """
    tools = before.tools
    if options.get("tools") is not None:
        name = options.name("tools")
        tools = _told(options, "tools", lambda: read_tools(options.get("tools"), name), tools)
    choice, parallel = options.get("tool_choice"), options.get("parallel_tool_calls")
    if choice is None and before.choice_for(tools) is not None:
        choice = before.choice_for(tools)
    if not tools and may_come and choice in (None, "required"):
        is_required = "required" in (choice, before.choice)
        return Toolbox(choice="required") if is_required else NO_TOOLS
    if not tools and choice != "required":
        # Frameworks that offer nothing send a choice all the same.
        return NO_TOOLS
    name = options.name("tool_choice")
    parallel = before.parallel if parallel is None else parallel
    return _told(
        options, "tool_choice", lambda: read_toolbox(tools, choice, parallel, name), before
    )


def shown_choice(box: Toolbox) -> str | dict[str, str]:
    """A choice as OpenAI's newer APIs show it."""
    return box.choice if box.named is None else {"type": "function", "name": box.named}


def calls_of(message: Options) -> tuple[ToolCall, ...]:
    """The calls of an assistant's message. Raises BadOption, or reports it."""
    value = message.get("tool_calls")
    if value is None:
        return ()
    name = message.name("tool_calls")
    none: tuple[ToolCall, ...] = ()
    return _told(message, "tool_calls", lambda: read_calls(value, name), none)


def schema_of(options: Options, key: str) -> AnswerSchema | None:
    """The form of an answer under a key. Raises BadOption, or reports it."""
    name = options.name(key)
    return _told(options, key, lambda: read_response_format(options.get(key), name), None)


def _told(options: Options, key: str, read: Callable[[], T], default: T) -> T:
    with options.reporting():
        try:
            return read()
        except BadInput as error:
            raise within(options.name(key), error) from None
    return default
