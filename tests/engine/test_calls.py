"""Calls are read as they come, whatever they are cut into, and no half of one is a call."""

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine.calls import CallParser
from voxtral_worker.engine.request import ArgumentsDelta, CallFinished, CallStarted
from voxtral_worker.errors import ToolCallInvalid

NAMES = ("set_device", "wait")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(), JSON, max_size=3)),
    min_size=1,
    max_size=3,
)


def parser() -> CallParser:
    ids = count(1)
    return CallParser(NAMES, lambda: f"call{next(ids)}")


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@given(
    CALLS,
    st.lists(st.integers(0, 10_000), max_size=20),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["last", "first", "none"]),
)
def test_calls_do_not_depend_on_how_they_are_cut_or_written(
    calls: list[tuple[str, dict[str, object]]],
    cuts: list[int],
    is_ascii: bool,
    indent: int | None,
    ids: str,
) -> None:
    written = []
    for name, arguments in calls:
        own_id = {} if ids == "none" else {"id": "abcdefgh1"}
        first, last = (own_id, {}) if ids == "first" else ({}, own_id)
        written.append({**first, "name": name, "arguments": arguments, **last})
    text = json.dumps(written, ensure_ascii=is_ascii, indent=indent)
    reader = parser()
    events = [event for piece in pieces(text, cuts) for event in reader.push(piece)]
    assert reader.is_whole
    started = [event for event in events if isinstance(event, CallStarted)]
    assert [event.name for event in started] == [name for name, _ in calls]
    assert [event.call_id for event in started] == [f"call{n + 1}" for n in range(len(calls))]
    finished = [event for event in events if isinstance(event, CallFinished)]
    assert [json.loads(event.arguments) for event in finished] == [each for _, each in calls]
    for event in finished:
        told = [e.text for e in events if isinstance(e, ArgumentsDelta) and e.index == event.index]
        assert "".join(told) == event.arguments
        # In order: the name before the arguments, and these before the end.
        of_call = [e for e in events if e.index == event.index]
        assert isinstance(of_call[0], CallStarted)
        assert of_call[-1] == event


def test_arguments_that_come_before_the_name_are_held() -> None:
    reader = parser()
    assert reader.push('[{"arguments": {"a": 1}, ') == []
    assert reader.push('"name": "wait"') == [
        CallStarted(0, "call1", "wait"),
        ArgumentsDelta(0, '{"a": 1}'),
    ]
    assert reader.push("}]") == [CallFinished(0, '{"a": 1}')]


def test_arguments_are_told_as_they_come() -> None:
    reader = parser()
    assert reader.push('[{"name": "wait", "arguments": {"t') == [
        CallStarted(0, "call1", "wait"),
        ArgumentsDelta(0, '{"t'),
    ]
    assert reader.push('ext": "}]"') == [ArgumentsDelta(0, 'ext": "}]"')]
    assert not reader.is_whole


@pytest.mark.parametrize(
    "text",
    [
        "Sure!",
        '{"name": "wait", "arguments": {}}',
        '[{"name": "open_door", "arguments": {}}]',
        '[{"name": 7, "arguments": {}}]',
        '[{"name": "wait"}]',
        '[{"arguments": {}}]',
        '[{"name": "wait", "arguments": [1]}]',
        '[{"name": "wait", "arguments": "{}"}]',
        '[{"name": "wait", "arguments": {"a": tru}}]',
        '[{"name": "wait", "arguments": {}} {',
        '[{"name": "wait", "arguments": {}},]',
        '[{"name": "wait" "arguments": {}}]',
        '[{"name": "wait", "arguments": {}}] and more',
        '[{"name": "wait", "arguments": ' + "[" * 100_000 + "]" * 100_000 + "}]",
    ],
)
def test_what_is_no_call_of_an_offered_tool_is_an_error(text: str) -> None:
    with pytest.raises(ToolCallInvalid):
        parser().push(text)


@pytest.mark.parametrize("text", ["", "[", '[{"name": "wait", "arguments": {"a": 1', "[]"])
def test_half_of_a_call_is_none(text: str) -> None:
    reader = parser()
    assert not [event for event in reader.push(text) if isinstance(event, CallFinished)]
    assert not reader.is_whole


def test_a_fresh_id_has_nine_letters_or_digits() -> None:
    (started,) = CallParser(NAMES).push('[{"name": "wait", "arg')
    assert isinstance(started, CallStarted)
    assert len(started.call_id) == 9
    assert started.call_id.isascii()
    assert started.call_id.isalnum()
