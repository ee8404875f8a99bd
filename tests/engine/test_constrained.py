"""Answers that have to be calls or JSON are, whatever the model would rather say."""

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.embedded_model import EMBEDDED
from tests.support.random_schemas import SCHEMAS, random_model, satisfies
from tests.support.settings import changed
from voxtral_worker.engine.answer import Answer, answer
from voxtral_worker.engine.constraint import Constraint
from voxtral_worker.engine.conversation import Conversation, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.grammar import Grammars, Shape
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import AnswerSchema, Sampling
from voxtral_worker.engine.tool_options import read_tools
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.errors import BadInput, BadSchema, ToolCallInvalid, WorkerError

WAIT_S = 60.0
DEVICE = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "enum": ["küche", "bad"]},
        "on": {"type": "boolean"},
    },
    "required": ["room", "on"],
}


def box(schema: dict[str, Any], **choice: Any) -> Toolbox:
    tools = [{"name": "set_device", "parameters": schema}, {"name": "wait"}]
    return Toolbox(read_tools(tools, "tools"), **choice)


@pytest.fixture(scope="module")
def chance(loaded: LoadedModel) -> Iterator[Engine]:
    """An engine whose model says anything."""
    engine = Engine(EngineCore(random_model(loaded), EMBEDDED))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def grammars(loaded: LoadedModel) -> Iterator[Grammars]:
    made = Grammars(loaded.tokenizer, loaded.tokenizer.get_special_token("[TOOL_CALLS]"))
    made.start()
    yield made
    made.stop()


def ask(
    engine: Engine,
    tools: Toolbox | None = None,
    schema: AnswerSchema | None = None,
    *,
    text: str = "Go",
    temperature: float = 1.0,
    most: int = 300,
    seed: int | None = None,
) -> Answer:
    conversation = Conversation(UserTurn((text,)), tools=tools or Toolbox())
    sampling = Sampling(temperature, 1.0, most, seed=seed, schema=schema)
    return asyncio.run(answer(engine, conversation, sampling, "text", lambda _: None))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, is_named=st.booleans(), strict=st.booleans())
def test_arguments_satisfy_any_schema_whatever_the_weights(
    chance: Engine, schema: dict[str, Any], is_named: bool, strict: bool
) -> None:
    tools = read_tools([{"name": "it", "parameters": schema, "strict": strict}], "tools")
    made = ask(chance, Toolbox(tools, "required", "it" if is_named else None, parallel=False))
    assert made.text == ""
    if made.finish_reason == "length":
        # Cut off by the limit, which is not a call.
        assert made.calls == ()
        return
    assert made.finish_reason == "tool_calls"
    (call,) = made.calls
    assert call.name == "it"
    assert satisfies(call.arguments, schema)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, strict=st.booleans())
def test_an_answer_satisfies_its_schema_whatever_the_weights(
    chance: Engine, schema: dict[str, Any], strict: bool
) -> None:
    made = ask(chance, schema=AnswerSchema(json.dumps(schema), strict))
    assert made.finish_reason in ("stop", "length")
    if made.finish_reason == "stop":
        assert satisfies(made.text, schema)


def test_a_required_call_is_made_of_an_offered_tool(engine: Engine) -> None:
    made = ask(engine, box(DEVICE, choice="required", parallel=False), temperature=0)
    assert made.finish_reason == "tool_calls"
    assert made.text == ""
    assert {call.name for call in made.calls} <= {"set_device", "wait"}


def test_a_named_tool_is_the_one_that_is_called(engine: Engine) -> None:
    made = ask(engine, box(DEVICE, named="set_device", parallel=False), temperature=0)
    (call,) = made.calls
    assert call.name == "set_device"
    assert satisfies(call.arguments, DEVICE)
    # As it was trained: with a blank behind each mark.
    assert call.arguments == json.dumps(json.loads(call.arguments), ensure_ascii=False)


def test_without_parallel_calls_there_is_one(chance: Engine) -> None:
    made = ask(chance, box(DEVICE, choice="required", parallel=False))
    assert len(made.calls) == 1


def test_what_must_not_be_called_leaves_the_words_alone(engine: Engine) -> None:
    plain = ask(engine, text="hello", temperature=0)
    muted = ask(engine, box(DEVICE, choice="none"), text="hello", temperature=0)
    assert plain.text
    assert muted.finish_reason == "stop"
    assert muted.calls == ()


@contextmanager
def wilful(loaded: LoadedModel, liked: list[int]) -> Iterator[None]:
    """A model whose head always likes these tokens best, the first most."""

    def like(_: object, taken: object, logits: torch.Tensor) -> None:
        logits[:, liked] = 1e4 - torch.arange(len(liked), dtype=logits.dtype)

    hook = loaded.model.lm_head.register_forward_hook(like)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "name", ["[TOOL_CALLS]", "[TOOL_RESULTS]", "[TOOL_CONTENT]", "[AVAILABLE_TOOLS]"]
)
@pytest.mark.parametrize("tools", [None, box(DEVICE, choice="none")], ids=["no tools", "none"])
def test_no_words_come_of_a_call_that_nobody_may_make(
    loaded: LoadedModel, engine: Engine, name: str, tools: Toolbox | None
) -> None:
    liked = [loaded.tokenizer.get_special_token(name), loaded.tokenizer.eos_id]
    with wilful(loaded, liked):
        made = ask(engine, tools, temperature=0)
    assert (made.text, made.calls, made.finish_reason) == ("", (), "stop")


def test_a_model_that_is_free_to_call_writes_what_the_schema_says(
    loaded: LoadedModel, engine: Engine
) -> None:
    call = loaded.tokenizer.get_special_token("[TOOL_CALLS]")
    with wilful(loaded, [call]):
        made = ask(engine, box(DEVICE, parallel=False), temperature=1, most=400)
    assert made.finish_reason == "tool_calls"
    assert made.text == ""
    for each in made.calls:
        assert each.name == "wait" or satisfies(each.arguments, DEVICE)


def test_a_call_that_is_cut_off_is_none(engine: Engine) -> None:
    made = ask(engine, box(DEVICE, choice="required"), most=8)
    assert (made.finish_reason, made.calls, made.text) == ("length", (), "")


def test_equal_input_is_answered_from_the_cache_under_a_new_id(loaded: LoadedModel) -> None:
    engine = Engine(EngineCore(loaded, changed(EMBEDDED, response_cache_size=8)))
    engine.start()
    try:
        first, again = (
            ask(engine, box(DEVICE, named="set_device", parallel=False), temperature=0)
            for _ in range(2)
        )
        other = ask(engine, box(DEVICE, named="wait", parallel=False), temperature=0)
        text = ask(engine, box(DEVICE, choice="none"), temperature=0, most=4)
    finally:
        engine.stop()
    assert first.calls[0].arguments == again.calls[0].arguments
    assert first.calls[0].call_id != again.calls[0].call_id
    # The prompt is the same; the choice is not.
    assert other.calls[0].name == "wait"
    assert text.calls == ()


def error_of(engine: Engine, schema: dict[str, Any], **choice: Any) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        ask(engine, box(schema, **choice), most=40)
    return raised.value


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string", "format": "telephone"},
        {"not": {"type": "string"}},
        {"oneOf": [{"type": "string"}, {"minLength": 1}]},
        {"$ref": "https://example.com/schema.json"},
        False,
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "integer", "minimum": 5, "maximum": 3},
    ],
    ids=["format", "not", "oneOf", "elsewhere", "false", "pattern", "empty"],
)
def test_a_schema_that_cannot_be_followed_is_refused_by_its_tool(
    engine: Engine, field: object
) -> None:
    schema = {"type": "object", "properties": {"a": field}, "required": ["a"]}
    error = error_of(engine, schema, choice="required")
    assert isinstance(error, BadInput)
    assert "the parameters of the tool 'set_device' cannot be followed" in error.message


def test_words_that_cannot_be_enforced_stop_nobody_who_is_free_to_call(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "telephone"}}}
    assert ask(engine, box(schema), text="hello", temperature=0).text


def hostile() -> dict[str, dict[str, Any]]:
    laughs: dict[str, Any] = {"d20": {"type": "string"}}
    for n in range(20):
        pair = [{"$ref": f"#/$defs/d{n + 1}"}] * 2
        laughs[f"d{n}"] = {"allOf": pair}
    texts = [f"value {n}" for n in range(1000)]
    return {
        "enum": {"properties": {"a": {"enum": texts}}},
        "pattern": {"properties": {"a": {"type": "string", "pattern": "(a{1,1000}){1,1000}"}}},
        "classes": {"properties": {"a": {"type": "string", "pattern": r"(\p{L}?\p{N}?){300}x"}}},
        "laughs": {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": laughs},
        "itself": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "fields": {"properties": {f"p{n}": {"type": "string"} for n in range(900)}},
        "ways": {
            "properties": {
                "a": {"anyOf": [{"properties": {f"k{n}": {"const": n}}} for n in range(400)]}
            }
        },
        "remainders": {
            "properties": {f"p{n}": {"type": "integer", "multipleOf": 450 + n} for n in range(20)}
        },
        "long": {"properties": {"a": {"type": "string", "minLength": 10**6}}},
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_schema_is_followed_or_refused_in_bounded_steps(
    loaded: LoadedModel, grammars: Grammars, name: str
) -> None:
    tools = read_tools([{"name": "it", "parameters": {"type": "object", **hostile()[name]}}], "t")
    shape = Shape(Toolbox(tools, "required"))
    try:
        grammars.check(shape, WAIT_S)
    except BadSchema as error:
        assert "the tool 'it'" in error.message
        return
    constraint = Constraint(shape, grammars.find(shape))
    call_token = loaded.tokenizer.get_special_token("[TOOL_CALLS]")
    chance = random.Random(name)
    try:
        for _ in range(60):
            if constraint.is_over:
                break
            bits = constraint.mask()
            allowed = [n for n in range(8 * len(bits)) if bits[n // 8] >> (n % 8) & 1]
            token = chance.choice(allowed)
            constraint.take(token, is_call=token == call_token)
    except ToolCallInvalid as error:
        assert "too complex" in error.message


def test_others_are_answered_while_a_grammar_is_compiled(engine: Engine) -> None:
    compiled = threading.Event()
    schema = {"type": "object", **hostile()["remainders"]}

    def compile_it() -> None:
        engine.grammars.check(Shape(box(schema)), WAIT_S)
        compiled.set()

    thread = threading.Thread(target=compile_it)
    thread.start()
    assert ask(engine, text="hello", temperature=0, most=4).text
    assert compiled.wait(WAIT_S)
    thread.join(WAIT_S)


def test_many_grammars_wait_for_one_thread_and_too_many_are_refused(loaded: LoadedModel) -> None:
    grammars = Grammars(loaded.tokenizer, 9)
    refused = 0
    for number in range(70):
        schema = AnswerSchema(json.dumps({"const": number}))
        try:
            grammars.ask(Shape(Toolbox(), schema), lambda: None)
        except WorkerError as error:
            assert error.code == "AT_CAPACITY"
            refused += 1
    assert refused == 6
    # Those that wait are served once the thread runs.
    grammars.start()
    grammars.check(Shape(Toolbox(), AnswerSchema(json.dumps({"const": 1}))), WAIT_S)
    grammars.stop()


def test_a_grammar_that_is_not_ready_in_time_is_told(loaded: LoadedModel) -> None:
    grammars = Grammars(loaded.tokenizer, 9)
    with pytest.raises(BadInput, match="the tools 'set_device', 'wait' took longer"):
        grammars.check(Shape(box(DEVICE)), timeout_s=0.01)
