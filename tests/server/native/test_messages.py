import json
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.native_session import written as message_for
from voxtral_worker.engine.conversation import Audio
from voxtral_worker.engine.request import Usage
from voxtral_worker.engine.tools import ToolCall
from voxtral_worker.errors import BadInput, EngineFailure, RateLimited, TooLarge
from voxtral_worker.server.native.messages import (
    CONTROL_TYPES,
    ConfigUpdate,
    Control,
    Message,
    Played,
    Resume,
    TextInput,
    message_of,
    parse,
    to_wire,
)
from voxtral_worker.sessions import events
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS, SessionConfig

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
    assert isinstance(message, TextInput | Control | Resume | ConfigUpdate)


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
        '{"type": "control", "control_type": "resume", "last_seq": 9007199254740993}',
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
    assert parse(json.dumps({"type": "text_input", "text": longest})) == TextInput(text=longest)
    with pytest.raises(TooLarge) as refused:
        parse(json.dumps({"type": "text_input", "text": longest + "x", "request_id": "a"}))
    assert message_for(events.Refused(refused.value)).fields == {
        "error": "text has 32769 characters, but may have 32768",
        "code": "PAYLOAD_TOO_LARGE",
        "request_id": "a",
    }


def test_the_documented_messages_are_understood() -> None:
    assert parse('{"type": "text_input", "text": "Hi", "timestamp": 17.5}') == TextInput(text="Hi")
    assert parse('{"type": "text_input", "text": "\\ud83d\\ude00", "request_id": "a"}') == (
        TextInput(text="\N{GRINNING FACE}", request_id="a")
    )
    assert parse('{"type": "text_input", "text": "Hi", "request_id": 7}') == TextInput(
        text="Hi", request_id=7
    )
    assert parse('{"type": "config_update", "config": {"top_p": 2}}') == ConfigUpdate(
        config={"top_p": 2}
    )
    for control_type in set(CONTROL_TYPES) - {"played", "resume"}:
        text = json.dumps({"type": "control", "control_type": control_type})
        assert parse(text) == Control.model_validate({"control_type": control_type})


def test_played_names_a_turn_and_how_much_of_it_was_heard() -> None:
    told = {"type": "control", "control_type": "played", "turn_id": "7", "played_ms": 850}
    assert parse(json.dumps(told)) == Played(turn_id="7", played_ms=850)
    for wrong in (
        {"turn_id": None},
        {"turn_id": 7},
        {"played_ms": None},
        {"played_ms": -1},
        {"played_ms": "850"},
        {"played_ms": True},
        {"played_ms": float("nan")},
    ):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            parse(json.dumps({**told, **wrong}))


@pytest.mark.parametrize("timestamp", ["null", "true", '"2026-01-01T00:00:00Z"', "[]", "{}"])
def test_a_timestamp_is_ignored_whatever_it_holds(timestamp: str) -> None:
    text = '{"type": "control", "control_type": "ping", "timestamp": ' + timestamp + "}"
    assert parse(text) == Control(control_type="ping")


def test_null_is_the_same_as_missing() -> None:
    text = '{"type": "text_input", "text": "Hi", "request_id": null}'
    assert parse(text) == TextInput(text="Hi")
    text = '{"type": "control", "control_type": "resume", "last_seq": null}'
    assert parse(text) == Resume()


def test_only_resume_reads_a_last_seq() -> None:
    assert parse('{"type": "control", "control_type": "resume", "last_seq": 9}') == Resume(
        last_seq=9
    )
    assert parse('{"type": "control", "control_type": "ping", "last_seq": "x"}') == Control(
        control_type="ping"
    )


def wire(message: Message, seq: int | None = None) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(to_wire(message, 12.5, seq))
    assert told.pop("timestamp") == 12.5
    return told


BROKE = EngineFailure("it broke")
SLOW = RateLimited("slow down", retry_after_s=1.23456)
SOUND = Audio(np.zeros(512, np.float32))
# Every event, and its message without timestamp and seq.
WRITTEN: list[tuple[events.Event, dict[str, Any]]] = [
    (
        events.SpeechStarted("1", 320),
        {"type": "status", "status": "speech_started", "turn_id": "1"},
    ),
    (
        events.SpeechEnded("1", 320, 640, SOUND),
        {"type": "status", "status": "speech_ended", "turn_id": "1", "reason": "silence"},
    ),
    (
        events.SpeechEnded("1", 320, 640, SOUND, "semantic", 0.98765),
        {
            "type": "status",
            "status": "speech_ended",
            "turn_id": "1",
            "reason": "semantic",
            "completeness": 0.988,
        },
    ),
    (
        events.TurnReopened("1", 320),
        {"type": "status", "status": "turn_reopened", "turn_id": "1"},
    ),
    (events.Transcript("1", "a b"), {"type": "transcript", "text": "a b", "turn_id": "1"}),
    (
        events.Transcript("1", "", EngineFailure("it broke")),
        {
            "type": "transcript",
            "text": "",
            "turn_id": "1",
            "error": "it broke",
            "code": "PROCESSING_ERROR",
        },
    ),
    (
        events.SpeechEnded("1", 320, 640, SOUND, "too_long"),
        {"type": "status", "status": "speech_ended", "turn_id": "1", "reason": "too_long"},
    ),
    (events.NoSpeech("1"), {"type": "status", "status": "no_speech", "turn_id": "1"}),
    (events.NoSpeech(), {"type": "status", "status": "no_speech"}),
    (
        events.Partial("1", "a b", 1),
        {"type": "transcript_partial", "text": "a b", "stable_chars": 1, "turn_id": "1"},
    ),
    (events.Accepted("1"), {"type": "status", "status": "processing", "turn_id": "1"}),
    (
        events.Spoken("1", "Yes. ", b"sound", 400, 120.5),
        {
            "type": "audio",
            "turn_id": "1",
            "offset_ms": 400,
            "duration_ms": 120.5,
            "text": "Yes. ",
        },
    ),
    (
        events.Spoken("1", "", b"sound", 520.5, 20, is_final=True),
        {
            "type": "audio",
            "turn_id": "1",
            "offset_ms": 520.5,
            "duration_ms": 20,
            "text": "",
            "final": True,
        },
    ),
    (
        events.Accepted("1", 7),
        {"type": "status", "status": "processing", "turn_id": "1", "request_id": 7},
    ),
    (
        events.Delta("1", "h\u00e9llo", "r"),
        {"type": "text_delta", "text": "h\u00e9llo", "turn_id": "1", "request_id": "r"},
    ),
    (
        events.HistoryTrimmed("1", 2),
        {"type": "status", "status": "history_trimmed", "turn_id": "1", "exchanges": 2},
    ),
    (
        events.CallMade("1", 0, ToolCall("aaaaaaaa1", "light", '{"on": true}'), tag="a1"),
        {
            "type": "tool_call",
            "turn_id": "1",
            "call_id": "aaaaaaaa1",
            "name": "light",
            "arguments": {"on": True},
            "request_id": "a1",
        },
    ),
    (
        events.Stopped("1", events.Why.SPOKEN_OVER),
        {"type": "status", "status": "interrupted", "turn_id": "1"},
    ),
    (
        events.Stopped("1", events.Why.CANCELLED),
        {"type": "status", "status": "cancelled", "turn_id": "1"},
    ),
    (
        events.Stopped(None, events.Why.CANCELLED),
        {"type": "status", "status": "cancelled", "turn_id": None},
    ),
    (
        events.Answered("1", "a", "audio", "stop", Usage(1, 2, 3), {"tokens": 2}, "r"),
        {
            "type": "text_response",
            "text": "a",
            "turn_id": "1",
            "source": "audio",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 3},
            "metrics": {"tokens": 2},
            "request_id": "r",
        },
    ),
    (
        events.Failed("2", SLOW, 7),
        {
            "type": "error",
            "error": "slow down",
            "code": "RATE_LIMITED",
            "turn_id": "2",
            "retry_after": 1.235,
            "request_id": 7,
        },
    ),
    (
        events.Refused(BROKE),
        {"type": "error", "error": "it broke", "code": "PROCESSING_ERROR"},
    ),
    (events.HistoryCleared(), {"type": "status", "status": "history_cleared"}),
    (
        events.ConfigChanged(SessionConfig(silence_ms=100)),
        {
            "type": "status",
            "status": "config_updated",
            "config": SessionConfig(silence_ms=100).as_dict(),
        },
    ),
    (events.Draining(), {"type": "status", "status": "draining"}),
    (events.Expired(), {"type": "status", "status": "session_expired"}),
]


@pytest.mark.parametrize(("event", "written"), WRITTEN)
def test_every_event_has_the_documented_fields(
    event: events.Event, written: dict[str, Any]
) -> None:
    message = message_for(event)
    assert list(wire(message).items()) == list(written.items())
    assert wire(message, 4) == {**written, "seq": 4}


def test_what_belongs_to_a_turn_is_numbered_and_nothing_else_is() -> None:
    for event, written in WRITTEN:
        assert message_for(event).is_numbered == (written.get("turn_id") is not None)
    assert not Message("heartbeat", {"seq": 3}).is_numbered


def test_no_event_is_left_out() -> None:
    silent = (events.CallBegun("1", 0, "aaaaaaaa1", "light"), events.CallDelta("1", 0, "{"))
    assert [message_of(event) for event in silent] == [None, None]
    told = {type(event) for event, _ in WRITTEN} | {type(event) for event in silent}
    assert told == set(get_args(events.Event))


def test_a_refusal_names_the_message_that_it_is_about() -> None:
    refused = RateLimited("slow down", retry_after_s=1.23456)
    refused.about = "mine"
    assert wire(message_for(events.Refused(refused))) == {
        "type": "error",
        "error": "slow down",
        "code": "RATE_LIMITED",
        "retry_after": 1.235,
        "request_id": "mine",
    }
