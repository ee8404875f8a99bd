import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.errors import BadInput, EngineFailure, RateLimited, TooLarge
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS
from voxtral_worker.sessions.messages import (
    CONTROL_TYPES,
    ConfigUpdate,
    Control,
    ErrorMessage,
    Plain,
    ServerMessage,
    Status,
    TextDelta,
    TextInput,
    TextResponse,
    TranscriptPartial,
    parse,
    to_wire,
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.sampled_from(["text_input", "control", "config_update", "resume", "ping", "\ud800"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
keys = st.sampled_from(
    ["type", "text", "request_id", "control_type", "last_seq", "config", "timestamp", "other"]
)
shaped = st.one_of(
    st.fixed_dictionaries({"type": st.just("text_input"), "text": scalars}),
    st.fixed_dictionaries({"type": st.just("control"), "control_type": scalars}),
    st.fixed_dictionaries({"type": st.just("config_update"), "config": values}),
    st.just({}),
)


def only_ever_refuses(text: str) -> None:
    try:
        message = parse(text)
    except (BadInput, TooLarge):
        return
    assert isinstance(message, TextInput | Control | ConfigUpdate)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_message_or_bad_input(text: str) -> None:
    only_ever_refuses(text)


@given(shaped, st.dictionaries(keys, values, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_json_object_is_a_message_or_bad_input(
    message: dict[str, Any], more: dict[str, Any]
) -> None:
    only_ever_refuses(json.dumps({**more, **message}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        '{"type": "text_input", "text": "hi", "request_id": ' + "9" * 5000 + "}",
        "[1]",
        "null",
        '"text_input"',
        '{"type": ["text_input"]}',
        '{"type": "unknown"}',
        '{"text": "hi"}',
        '{"type": "text_input", "text": "hi", "timestamp": "now"}',
        '{"type": "text_input", "text": "hi", "timestamp": true}',
        '{"type": "text_input"}',
        '{"type": "text_input", "text": 1}',
        '{"type": "text_input", "text": ""}',
        '{"type": "text_input", "text": " \\n "}',
        '{"type": "text_input", "text": "\\ud800"}',
        '{"type": "text_input", "text": "hi", "request_id": 1.5}',
        '{"type": "text_input", "text": "hi", "request_id": true}',
        '{"type": "text_input", "text": "hi", "request_id": "\\udfff"}',
        '{"type": "text_input", "text": "hi", "request_id": "' + "x" * 257 + '"}',
        '{"type": "text_input", "text": "hi", "request_id": {}}',
        '{"type": "control"}',
        '{"type": "control", "control_type": "reboot"}',
        '{"type": "control", "control_type": {}}',
        '{"type": "control", "control_type": "resume", "last_seq": -1}',
        '{"type": "control", "control_type": "resume", "last_seq": "1"}',
        '{"type": "config_update"}',
        '{"type": "config_update", "config": []}',
    ],
)
def test_what_cannot_be_understood_is_an_invalid_request(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(text)
    assert refused.value.code == "INVALID_REQUEST"


def test_a_text_over_the_limit_is_too_large_and_one_at_the_limit_is_not() -> None:
    longest = "x" * MAX_TEXT_CHARACTERS
    assert parse(json.dumps({"type": "text_input", "text": longest})) == TextInput(longest)
    with pytest.raises(TooLarge) as refused:
        parse(json.dumps({"type": "text_input", "text": longest + "x", "request_id": "a"}))
    assert ErrorMessage(refused.value, request_id=refused.value.request_id).fields() == {
        "error": "text has 32769 characters, but may have 32768",
        "code": "PAYLOAD_TOO_LARGE",
        "request_id": "a",
    }


def test_the_documented_messages_are_understood() -> None:
    assert parse('{"type": "text_input", "text": "Hi", "timestamp": 17.5}') == TextInput("Hi")
    assert parse('{"type": "text_input", "text": "\\ud83d\\ude00", "request_id": "a"}') == (
        TextInput("\N{GRINNING FACE}", "a")
    )
    assert parse('{"type": "text_input", "text": "Hi", "request_id": 7}') == TextInput("Hi", 7)
    assert parse('{"type": "config_update", "config": {"top_p": 2}}') == ConfigUpdate({"top_p": 2})
    for control_type in CONTROL_TYPES:
        text = json.dumps({"type": "control", "control_type": control_type})
        assert parse(text) == Control(control_type)


def test_only_resume_reads_a_last_seq() -> None:
    assert parse('{"type": "control", "control_type": "resume", "last_seq": 9}').last_seq == 9  # type: ignore[union-attr]
    assert parse('{"type": "control", "control_type": "ping", "last_seq": "x"}') == Control("ping")


def wire(message: ServerMessage, seq: int | None = None) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(to_wire(message, 12.5, seq))
    assert told.pop("timestamp") == 12.5
    return told


def test_messages_of_a_turn_are_numbered_and_others_are_not() -> None:
    refused = RateLimited("slow down", retry_after_s=1.25)
    numbered: list[ServerMessage] = [
        Status("processing", "1"),
        TextDelta("a", "1"),
        TextResponse("a", "1", "text", "stop"),
        TranscriptPartial("a", 0, "1"),
        ErrorMessage(refused, "1"),
    ]
    plain: list[ServerMessage] = [
        Status("draining"),
        Status("cancelled", extra={"turn_id": None}),
        ErrorMessage(refused),
        Plain("heartbeat", {"seq": 3}),
    ]
    assert all(message.is_numbered for message in numbered)
    assert not any(message.is_numbered for message in plain)


def test_every_message_has_the_documented_fields() -> None:
    assert wire(Status("processing", "1"), 4) == {
        "type": "status",
        "status": "processing",
        "turn_id": "1",
        "seq": 4,
    }
    assert wire(Status("resumed", extra={"missed": 0})) == {
        "type": "status",
        "status": "resumed",
        "missed": 0,
    }
    assert wire(TextDelta("héllo", "1", "r"), 5) == {
        "type": "text_delta",
        "text": "héllo",
        "turn_id": "1",
        "request_id": "r",
        "seq": 5,
    }
    assert wire(TextResponse("a", "1", "audio", "stop", {"prompt_tokens": 1}, {"tokens": 2})) == {
        "type": "text_response",
        "text": "a",
        "turn_id": "1",
        "source": "audio",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1},
        "metrics": {"tokens": 2},
    }
    assert wire(TranscriptPartial("a b", 1, "1")) == {
        "type": "transcript_partial",
        "text": "a b",
        "stable_chars": 1,
        "turn_id": "1",
    }
    assert wire(Plain("heartbeat", {"seq": 3})) == {"type": "heartbeat", "seq": 3}


def test_an_error_names_its_code_and_its_turn_and_how_long_to_wait_where_there_is_one() -> None:
    assert wire(ErrorMessage(EngineFailure("it broke"))) == {
        "type": "error",
        "error": "it broke",
        "code": "PROCESSING_ERROR",
    }
    refused = RateLimited("slow down", retry_after_s=1.23456)
    assert wire(ErrorMessage(refused, "2", 7)) == {
        "type": "error",
        "error": "slow down",
        "code": "RATE_LIMITED",
        "turn_id": "2",
        "retry_after": 1.235,
        "request_id": 7,
    }
