"""Functions that the model may ask the caller to run: pure values.

They become JSON in prompts, in histories and in answers.
"""

import hashlib
import json
import re
import secrets
import string
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

ToolChoice: TypeAlias = Literal["auto", "none", "required"]

# The form that the model was trained on; mistral-common refuses every other one.
CALL_ID_CHARACTERS = 9
_LETTERS = string.ascii_letters + string.digits
_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
# Results of calls that were never run.
INTERRUPTED = '{"error": "interrupted by the user"}'
UNANSWERED = '{"error": "no answer from the tool"}'


@dataclass(frozen=True)
class Tool:
    """One function; `parameters` is the JSON text of its schema, an object's.

    With `strict` the arguments satisfy every word of the schema. Without, words that cannot be
    enforced are ignored while the model is free to call or not.
    """

    name: str
    description: str
    parameters: str
    strict: bool = False

    def as_prompt(self) -> dict[str, Any]:
        """The JSON object that the model was trained to read."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": json.loads(self.parameters),
        }
        return {"type": "function", "function": function}

    def as_option(self) -> dict[str, Any]:
        """The JSON object that callers send."""
        function = self.as_prompt()["function"]
        return {"type": "function", **function, "strict": self.strict}


@dataclass(frozen=True)
class ToolCall:
    """What the model asks to run; `arguments` is JSON text, `call_id` nine letters or digits."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolResult:
    """The result of a call, as the model reads it."""

    call_id: str
    content: str


@dataclass(frozen=True)
class Toolbox:
    """The tools that are offered for a response, and whether one of them must be called.

    With `named` that function is called, whatever the choice. Without `parallel` a round has
    one call.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"
    named: str | None = None
    parallel: bool = True

    @property
    def may_call(self) -> bool:
        """Whether a call may be made."""
        return bool(self.tools) and self.choice != "none"

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call."""
        return self.may_call and (self.named is not None or self.choice == "required")

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The functions that may be called."""
        if not self.may_call:
            return ()
        return tuple(tool for tool in self.tools if self.named in (None, tool.name))

    def choice_for(self, tools: tuple[Tool, ...]) -> str | dict[str, str] | None:
        """The choice as callers say it; None if these tools do not have it."""
        if self.named is not None:
            known = self.named in [tool.name for tool in tools]
            return {"name": self.named} if known else None
        return self.choice if tools else None

    def freed(self) -> "Toolbox":
        """The same tools for a later round of a turn, in which no tool has to be called."""
        return Toolbox(self.tools, "none" if self.choice == "none" else "auto", None, self.parallel)


NO_TOOLS = Toolbox()


def tools_json(tools: tuple[Tool, ...]) -> str:
    """The JSON text of functions, as the model was trained to read it."""
    return json.dumps([tool.as_prompt() for tool in tools], ensure_ascii=False)


def calls_json(calls: tuple[ToolCall, ...]) -> str:
    """The JSON text of calls, as the model was trained to write it."""
    written = [
        {"name": call.name, "arguments": _value(call.arguments), "id": call.call_id}
        for call in calls
    ]
    return json.dumps(written, ensure_ascii=False)


def calls_as_openai(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """Calls in the shape of OpenAI's chat completions."""
    return [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def new_call_id() -> str:
    """A fresh id of a call."""
    return "".join(secrets.choice(_LETTERS) for _ in range(CALL_ID_CHARACTERS))


def known_call_id(call_id: str) -> str:
    """The id of a call as the model may read it; one of another form becomes the same each time."""
    if _CALL_ID.fullmatch(call_id):
        return call_id
    digest = hashlib.blake2b(call_id.encode(errors="surrogatepass")).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:CALL_ID_CHARACTERS])
