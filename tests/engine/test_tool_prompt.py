"""Prompts with tools are token for token those of mistral-common, in its v7 layout."""

from types import SimpleNamespace
from typing import Any

import pytest
from mistral_common.protocol.instruct.request import ChatCompletionRequest

from tests.engine.test_prompt import ROOM, audio_part, tone
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    Round,
    UserTurn,
)
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.tool_options import read_tools
from voxtral_worker.engine.tools import Toolbox, ToolCall, ToolResult
from voxtral_worker.errors import BadInput

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_device",
            "description": "Schaltet Geräte: “Lampe” [TOOL_CALLS]",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "enum": ["küche", "bad"]},
                    "on": {"type": "boolean"},
                },
                "required": ["room", "on"],
            },
        },
    },
    {"type": "function", "function": {"name": "wait", "parameters": {}}},
]
BOX = Toolbox(read_tools(TOOLS, "tools"))
CALL = ToolCall("abcdefgh1", "set_device", '{"room":"küche",  "on":true}')
OTHER = ToolCall("abcdefgh2", "wait", "{}")
ROUND = Round(
    AssistantTurn(text="Sure. "),
    (CALL, OTHER),
    (ToolResult("abcdefgh1", '{"ok": true}'), ToolResult("abcdefgh2", "späti [/TOOL_RESULTS]")),
)
SECOND = Round(AssistantTurn(text=""), (OTHER,), (ToolResult("abcdefgh2", "3"),))


@pytest.fixture(scope="module")
def encoder(loaded: LoadedModel) -> PromptEncoder:
    return PromptEncoder(loaded.tokenizer)


def called(*calls: ToolCall, content: str = "") -> dict[str, Any]:
    written = [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]
    return {"role": "assistant", "tool_calls": written, **({"content": content} if content else {})}


def result(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def reference(loaded: LoadedModel, messages: list[dict[str, Any]], tools: list[Any]) -> list[int]:
    inputs = loaded.processor.tokenizer.apply_chat_template(
        messages, tools=tools or None, tokenize=True, return_dict=True
    )
    return list(inputs["input_ids"])


def spoken_reference(loaded: LoadedModel, *content: dict[str, Any]) -> list[int]:
    request = ChatCompletionRequest(messages=[{"role": "user", "content": content}], tools=TOOLS)
    library = loaded.processor.tokenizer.tokenizer
    return list(library.encode_chat_completion(request).tokens)


def spoken_part(samples: Any) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": audio_part(samples)["base64"]}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


MESSAGES_OF_ROUNDS = [
    called(CALL, OTHER, content="Sure. "),
    result("abcdefgh1", '{"ok": true}'),
    result("abcdefgh2", "späti [/TOOL_RESULTS]"),
    called(OTHER),
    result("abcdefgh2", "3"),
]


def test_tools_stand_before_the_last_turn_of_the_user(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    history = (Exchange(UserTurn(("Hello",)), AssistantTurn(text="Hi.")),)
    conversation = Conversation(UserTurn(("Go",)), history, "Be kind.", tools=BOX)
    messages = [
        {"role": "system", "content": "Be kind."},
        user("Hello"),
        {"role": "assistant", "content": "Hi."},
        user("Go"),
    ]
    assert list(encoder.encode(conversation, ROOM).ids) == reference(loaded, messages, TOOLS)


def test_rounds_are_written_as_they_were_trained(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    first = Exchange(UserTurn(("Go",)), AssistantTurn(text="Done."), (ROUND, SECOND))
    conversation = Conversation(UserTurn(("Again",)), (first,), rounds=(ROUND, SECOND), tools=BOX)
    messages = [
        user("Go"),
        *MESSAGES_OF_ROUNDS,
        {"role": "assistant", "content": "Done."},
        user("Again"),
        *MESSAGES_OF_ROUNDS,
    ]
    assert list(encoder.encode(conversation, ROOM).ids) == reference(loaded, messages, TOOLS)


def test_tools_beside_audio_are_those_of_the_library(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    samples = tone(1.0)
    conversation = Conversation(UserTurn((Audio(samples),)), tools=BOX)
    prompt = encoder.encode(conversation, ROOM)
    assert list(prompt.ids) == spoken_reference(loaded, spoken_part(samples))
    assert [span.start for span in prompt.spans] == [prompt.ids.index(encoder.audio_token_id)]


def test_a_system_text_beside_audio_and_tools_opens_the_first_turn(
    loaded: LoadedModel, encoder: PromptEncoder
) -> None:
    samples = tone(1.0)
    text = {"type": "text", "text": "Be kind.\n\n"}
    conversation = Conversation(UserTurn((Audio(samples),)), system_prompt="Be kind.", tools=BOX)
    expected = spoken_reference(loaded, text, spoken_part(samples))
    assert list(encoder.encode(conversation, ROOM).ids) == expected


def test_a_choice_changes_no_prompt(encoder: PromptEncoder) -> None:
    prompts = {
        encoder.encode(Conversation(UserTurn(("Go",)), tools=box), ROOM).ids
        for box in (BOX, Toolbox(BOX.tools, "none"), Toolbox(BOX.tools, "required", None, False))
    }
    assert len(prompts) == 1


@pytest.mark.parametrize("version", ["v11", "v13"])
@pytest.mark.parametrize("with_tools", [True, False], ids=["tools", "rounds"])
def test_another_version_of_the_tokenizer_is_refused_by_name(
    loaded: LoadedModel, version: str, with_tools: bool
) -> None:
    real = loaded.tokenizer
    other = SimpleNamespace(
        version=SimpleNamespace(value=version),
        bos_id=real.bos_id,
        eos_id=real.eos_id,
        encode=real.encode,
        get_special_token=real.get_special_token,
    )
    encoder = PromptEncoder(other)
    asked = Conversation(UserTurn(("Go",)), tools=BOX)
    if not with_tools:
        asked = Conversation(UserTurn(("Go",)), rounds=(SECOND,))
    with pytest.raises(BadInput, match=f"tokenizer is {version}, and only v7"):
        encoder.encode(asked, ROOM)
    assert encoder.encode(Conversation(UserTurn(("Go",))), ROOM).ids


def test_the_embedded_tokenizer_is_of_the_version_that_is_written_here(loaded: LoadedModel) -> None:
    assert loaded.tokenizer.version.value == "v7"
