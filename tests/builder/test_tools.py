"""The tools that the embedded model learns to call."""

import json
import random

import pytest
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    ToolMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import FunctionCall, Tool, ToolCall
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from builder.voxtral_tiny import tokenizer
from builder.voxtral_tiny.examples import ExampleMaker
from builder.voxtral_tiny.prompts import PromptMaker, Text
from builder.voxtral_tiny.tools import ToolMaker, expected_call, number, written_call
from voxtral_worker.settings import EMBEDDED_MODEL


@pytest.mark.parametrize(
    ("said", "name", "arguments"),
    [
        (
            "Turn off the living room fan.",
            "set_device",
            {"room": "living room", "device": "fan", "on": False},
        ),
        ("Set a timer for fifty five minutes.", "set_timer", {"amount": 55, "unit": "minutes"}),
        ("Call three one four.", "dial", {"digits": "314"}),
        ("press zero", "dial", {"digits": "0"}),
    ],
)
def test_a_command_is_the_call_of_a_tool(said: str, name: str, arguments: dict[str, str]) -> None:
    assert expected_call(said) == (name, arguments)


@pytest.mark.parametrize("said", ["Call home.", "Open the door.", "Five five.", "Call mom.", ""])
def test_what_no_tool_does_is_no_call(said: str) -> None:
    assert expected_call(said) is None


def test_numbers_of_the_vocabulary_mean_what_they_say() -> None:
    assert [number(words) for words in ("ten", "forty", "fifty nine", "seven")] == [10, 40, 59, 7]


def test_only_a_tool_that_is_offered_is_called() -> None:
    maker = ToolMaker(random.Random(1), lambda: "some words")
    kinds = set()
    for _ in range(200):
        tools = maker.offer({"dial"})
        assert tools
        names = [tool["function"]["name"] for tool in tools]
        call = maker.call("call one two three", tools)
        assert (call is not None) == ("dial" in names)
        kinds.add((call is not None, len(names)))
    assert len(kinds) > 5


def test_arguments_follow_the_order_of_the_schema() -> None:
    maker = ToolMaker(random.Random(2), lambda: "some words")
    orders = set()
    for _ in range(100):
        tools = maker.offer({"set_device"})
        if call := maker.call("turn on the garage radio", tools):
            [schema] = [t["function"] for t in tools if t["function"]["name"] == "set_device"]
            assert list(call[1]) == list(schema["parameters"]["properties"])
            orders.add(tuple(call[1]))
    assert len(orders) > 1


def test_a_round_of_tools_is_laid_out_as_mistral_common_does() -> None:
    common = MistralTokenizer.from_file(str(EMBEDDED_MODEL / "tekken.json"))
    encoder = common.instruct_tokenizer.tokenizer
    maker = ExampleMaker([], seed=5)
    prompts = PromptMaker(maker, lambda text: encoder.encode(text, bos=False, eos=False))
    tools = ToolMaker(random.Random(4), lambda: "some words").offer({"set_timer"})
    asked, arguments = "Set a timer for ten hours.", {"amount": 10, "unit": "hours"}
    parts = prompts.offered(tools, [Text(encoder.encode(asked, bos=False, eos=False))])
    parts += prompts.results([("set_timer", arguments)], learned=True)
    ours = [tokenizer.BOS] + [i for part in parts if isinstance(part, Text) for i in part.ids]
    text = encoder.decode(ours, special_token_policy=SpecialTokenPolicy.KEEP)
    call_id = text.split("[TOOL_RESULTS]")[1][:9]
    content = text.split("[TOOL_CONTENT]")[1].split("[/TOOL_RESULTS]")[0]
    answer = text.split("[/TOOL_RESULTS]")[1].removesuffix("</s>")
    function = FunctionCall(name="set_timer", arguments=json.dumps(arguments))
    request = ChatCompletionRequest(
        tools=[Tool.model_validate(tool) for tool in tools],
        messages=[
            UserMessage(content=asked),
            AssistantMessage(tool_calls=[ToolCall(id=call_id, function=function)]),
            ToolMessage(tool_call_id=call_id, content=content),
        ],
    )
    theirs = common.encode_chat_completion(request).tokens
    ours_before = ours[: len(ours) - len(encoder.encode(answer, bos=False, eos=True))]
    assert ours_before == theirs


def test_a_learned_call_leaves_the_id_out() -> None:
    call = ("dial", {"digits": "12"})
    assert json.loads(written_call(*call)) == {"name": "dial", "arguments": {"digits": "12"}}
    assert json.loads(written_call(*call, "a1B2c3D4e"))["id"] == "a1B2c3D4e"
