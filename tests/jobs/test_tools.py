"""Jobs whose texts and recordings call tools, and whose answers have a form."""

import json
from typing import Any

import jsonschema
import pytest

from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.errors import BadInput
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.schema import AudioJob, SessionJob, TextJob, read_input
from voxtral_worker.settings import Settings

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "light", "parameters": SCHEMA}}
ASKED = {"type": "text", "temperature": 0, "tools": [TOOL], "parallel_tool_calls": False}


async def outputs(engine: Engine, **job: Any) -> list[dict[str, Any]]:
    handler = JobHandler(engine, dict, Settings())
    return [piece async for piece in handler.handle({"id": "1", "input": {**ASKED, **job}})]


async def test_a_call_is_in_the_output_and_its_result_in_the_next_job(engine: Engine) -> None:
    user = {"role": "user", "content": "turn on the kitchen light"}
    *deltas, made = await outputs(
        engine, messages=[user], tool_choice={"name": "light"}, stream=True
    )
    assert deltas == []
    assert (made["finish_reason"], made["text"]) == ("tool_calls", "")
    (call,) = made["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "light")
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    said = {"role": "assistant", "tool_calls": made["tool_calls"]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "done"}
    (answered,) = await outputs(engine, messages=[user, said, result], tool_choice="none")
    assert answered["finish_reason"] in ("stop", "length")
    assert "tool_calls" not in answered
    assert answered["usage"]["prompt_tokens"] > made["usage"]["prompt_tokens"]


async def test_an_answer_has_the_form_that_was_asked_for(engine: Engine) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    (made,) = await outputs(engine, text="hello", tools=[], response_format=form)
    jsonschema.validate(json.loads(made["text"]), SCHEMA)


async def test_a_tool_that_cannot_be_followed_fails_the_job_by_its_name(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}
    tool = {"type": "function", "name": "odd", "parameters": schema}
    (made,) = await outputs(engine, text="hello", tools=[tool], tool_choice="required")
    assert "the tool 'odd'" in made["error"]
    assert made["error"].endswith("(INVALID_REQUEST)")


def test_every_kind_of_job_that_answers_takes_tools() -> None:
    text = read_input({**ASKED, "texts": ["a", "b"]})
    assert isinstance(text, TextJob)
    boxes = [prompt.conversation.tools for prompt in text.prompts]
    assert [[tool.name for tool in box.tools] for box in boxes] == [["light"]] * 2
    audio = read_input({**ASKED, "type": "audio", "audio_base64": "AAAA"})
    assert isinstance(audio, AudioJob)
    assert not audio.options.tools.parallel
    session = read_input({"type": "session", "config": {"tools": [TOOL]}})
    assert isinstance(session, SessionJob)
    assert [tool.name for tool in session.config.tools] == ["light"]
    plain = read_input({"type": "text", "text": "a"})
    assert isinstance(plain, TextJob)
    assert plain.prompts[0].conversation.tools == Toolbox()


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ({"type": "transcribe", "audio_base64": "a", "tools": []}, "'tools' is not a field"),
        ({"type": "text", "text": "a", "tools": [{}]}, r"tools\[0\].name is null"),
        ({"type": "text", "text": "a", "tool_choice": "required"}, "there are no tools"),
        ({"type": "text", "text": "a", "response_format": "json"}, "response_format is 'json'"),
        (
            {"type": "text", "messages": [{"role": "tool", "content": "a"}]},
            r"messages\[0\].tool_call_id is null",
        ),
        (
            {"type": "text", "messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]},
            "messages: no call of a tool that waits has the id '1'",
        ),
        (
            {"type": "text", "messages": [{"role": "user", "tool_calls": []}]},
            r"messages\[0\] has no field 'tool_calls'; it has role, name, content",
        ),
    ],
)
def test_what_cannot_be_used_is_told_with_its_field(job: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        read_input(job)
