"""Reads the body of a call of the Responses API."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, ValidationInfo
from pydantic_core import core_schema

from voxtral_worker.engine.dialogue import Dialogue, Said
from voxtral_worker.engine.request import Sampling
from voxtral_worker.engine.tool_options import (
    read_response_format,
)
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.server.openai.messages import (
    MAX_CHARACTERS,
    MESSAGE,
    MESSAGES,
    AnyMessage,
    Spoken,
    Text,
    meant_by,
    said_of,
    text_or,
)
from voxtral_worker.server.openai.parameters import (
    Parameters,
    checked_text,
    harmless,
    ignored,
    keys,
    not_offered,
    read_parameters,
    unsupported_key,
)
from voxtral_worker.server.openai.tools import (
    DEFAULT_NEW_TOKENS,
    FORM,
    MAX_NEW_TOKENS,
    AnswerParameters,
    CallArguments,
    CallId,
    CallName,
)
from voxtral_worker.values.may import May, made_of, may_be, whole
from voxtral_worker.values.model import By, Values

PLAIN: dict[str, Any] = {"type": "text"}


class CallItem(Parameters):
    """A tool call that the model made."""

    extras = keys(ignored, "id status namespace")
    type: Literal["function_call"]
    call_id: CallId
    name: CallName
    arguments: CallArguments = "{}"


def _output(value: object, _: str) -> str:
    """A text, or the joined texts of a list of parts."""
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in value]
        if not all(isinstance(text, str) for text in texts):
            raise may_be("a text, or a list of parts that are texts")
        value = "".join(map(str, texts))
    return checked_text(value, MAX_CHARACTERS)


class ResultItem(Parameters):
    """The result of a tool call: a text, or a list of parts that are texts."""

    extras = keys(ignored, "id status")
    type: Literal["function_call_output"]
    call_id: CallId
    output: Annotated[str, made_of(_output, {"type": ["string", "array"]})] = ""


class ThoughtItem(Values):
    """The reasoning of another model, which is ignored."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["reasoning"]


_ITEMS = "items may be messages, function_call and function_call_output"
Item: TypeAlias = Annotated[
    Annotated[AnyMessage, MESSAGE] | CallItem | ResultItem | ThoughtItem,
    By("type", _ITEMS, not_offered, rest="message"),
]
# Null is an item that says nothing.
Items: TypeAlias = Annotated[list[Item | None], MESSAGES]


def _said(items: "list[Item | None] | str", info: ValidationInfo) -> Iterator[Said[Spoken]]:
    """What the input says, behind the instructions."""
    yield Said("system", (info.data.get("instructions") or "",))
    if isinstance(items, str):
        yield Said("user", (items,))
        return
    for index, item in enumerate(items):
        match item:
            case CallItem():
                call = ToolCall(item.call_id, item.name, item.arguments)
                yield Said("assistant", (), (call,))
            case ResultItem():
                yield Said("tool", (item.output,), result_of=item.call_id)
            case ThoughtItem() | None:
                pass
            case _:
                yield said_of(item, f"input[{index}]")


def _form(value: object, name: str) -> dict[str, Any]:
    """The format of the text as it was sent, for the response object."""
    if not isinstance(value, dict):
        raise may_be("an object")
    if value.get("type") is None:
        return PLAIN
    read_response_format(value, name)
    return dict(value)


class TextOptions(Parameters):
    """The format of the text."""

    extras = keys(ignored, "verbosity")
    format: Annotated[dict[str, Any], made_of(_form, FORM)] = PLAIN


class ResponsesStreamOptions(Parameters):
    """Options of a stream, all without effect."""

    extras = keys(ignored, "include_obfuscation")


class ResponsesRequest(AnswerParameters):
    """A conversation, and how to answer it."""

    extras = {
        "background": harmless(
            False, words="{name} is {value}, but nothing is stored that could be asked for later"
        ),
        "top_logprobs": harmless(0),
        # They do not change the answers of this model.
        **keys(
            ignored,
            "include max_tool_calls prompt_cache_key prompt_cache_options prompt_cache_retention "
            "reasoning safety_identifier service_tier store truncation user",
        ),
        **keys(unsupported_key(), "moderation prompt"),
        **keys(
            unsupported_key(
                "{name}: this worker stores no responses; send the whole conversation as input"
            ),
            "previous_response_id conversation",
        ),
    }
    instructions: Text | None = None
    input: Annotated[
        Dialogue[Spoken], meant_by(Annotated[Items | Text, text_or(Text, Items)], _said)
    ]
    max_output_tokens: Annotated[int, whole(1, MAX_NEW_TOKENS)] = DEFAULT_NEW_TOKENS
    metadata: Annotated[
        dict[str, Any], May("an object", core_schema.is_instance_schema(dict), {"type": "object"})
    ] = {}
    text: TextOptions = TextOptions()
    stream_options: ResponsesStreamOptions = ResponsesStreamOptions()

    @property
    def said(self) -> tuple[Said[Spoken], ...]:
        """The turns of the conversation."""
        return self.input.turns

    @property
    def system_prompt(self) -> str | None:
        """The system text before the turns, with the instructions."""
        return self.input.system

    @property
    def sampling(self) -> Sampling:
        """How the answer is made."""
        schema = read_response_format(self.text.format, "text.format")
        most = self.max_output_tokens
        return Sampling(float(self.temperature), float(self.top_p), most, schema=schema)


def read_responses(body: Mapping[str, Any]) -> ResponsesRequest:
    """Read a body. Raises one BadOption that names all that is wrong."""
    return read_parameters(ResponsesRequest, body)
