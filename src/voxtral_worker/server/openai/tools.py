"""The tools, the sampling and the format of an answer, in OpenAI's calls."""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from voxtral_worker.engine.request import Sampling
from voxtral_worker.engine.tool_options import (
    read_arguments,
    read_call_id,
    read_name,
    read_toolbox,
)
from voxtral_worker.engine.tools import NO_TOOLS, Tool, Toolbox
from voxtral_worker.server.openai.errors import told_of
from voxtral_worker.server.openai.parameters import Parameters, anything
from voxtral_worker.sessions.config import TOOL_CHOICE, TOOLS
from voxtral_worker.values.may import Flag, May, attempt, made_of, number

TOOL_KEYS = ("tools", "tool_choice", "parallel_tool_calls")
MAX_NEW_TOKENS = 4096
DEFAULT_NEW_TOKENS = 1024

Tools: TypeAlias = Annotated[tuple[Tool, ...], TOOLS]
ToolChoice: TypeAlias = Annotated[Any, anything(TOOL_CHOICE.described or {})]
Parallel: TypeAlias = Annotated[Any, anything({"type": "boolean"})]
FORM = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
    "required": ["type"],
}


def _of_item(read: Callable[[object, str], str]) -> May:
    """A key of an item. In an error of it, `param` is the item."""

    def make(value: object, name: str) -> str:
        with told_of(name.rpartition(".")[0]):
            return read(value, name)

    return made_of(make, {"type": "string"})


CallId: TypeAlias = Annotated[str, _of_item(read_call_id)]
CallName: TypeAlias = Annotated[str, _of_item(read_name)]
CallArguments: TypeAlias = Annotated[str, _of_item(read_arguments)]


class AnswerParameters(Parameters):
    """Abstract: the parameters of an answer, which chat completions and responses share.

    After reading, `tool_choice` is the Toolbox that is offered.
    """

    model: Annotated[Any, anything({"type": "string"})]
    temperature: Annotated[float, number(0, 2)] = Sampling().temperature
    top_p: Annotated[float, number(0, 1)] = Sampling().top_p
    stream: Flag = False
    tools: Tools = ()
    parallel_tool_calls: Parallel = None
    tool_choice: ToolChoice = Field(default=None, validate_default=True)

    @field_validator("parallel_tool_calls")
    @classmethod
    def _of_tools(cls, parallel: object, info: ValidationInfo) -> object:
        # Without tools it has no effect, so it is not checked.
        return parallel if info.data.get("tools") else None

    @field_validator("tool_choice")
    @classmethod
    def _offered(cls, choice: object, info: ValidationInfo) -> Toolbox:
        tools, parallel = info.data.get("tools"), info.data["parallel_tool_calls"]
        if tools is None:
            return NO_TOOLS
        return attempt(lambda name: offered(tools, choice, parallel, name))


def offered(
    tools: tuple[Tool, ...] | None,
    choice: object,
    parallel: object,
    name: str,
    before: Toolbox = NO_TOOLS,
    *,
    may_come: bool = False,
) -> Toolbox:
    """The tools that a request offers. Tools and a choice that it leaves out stay as `before`.

    `may_come`: `required` is accepted before there are tools, and takes effect once there are.
    `name` is the name of the choice in errors. Raises BadInput.
    """
    tools = before.tools if tools is None else tools
    if choice is None:
        choice = before.choice_for(tools)
    if not tools and may_come and choice in (None, "required"):
        is_required = "required" in (choice, before.choice)
        return Toolbox(choice="required") if is_required else NO_TOOLS
    if not tools and choice != "required":
        # Frameworks send a choice even if they offer no tools.
        return NO_TOOLS
    return read_toolbox(tools, choice, before.parallel if parallel is None else parallel, name)


def shown_choice(box: Toolbox) -> str | dict[str, str]:
    """The choice in the shape of OpenAI's newer APIs."""
    return box.choice if box.named is None else {"type": "function", "name": box.named}
