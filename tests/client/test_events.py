"""Every message of the protocol is a typed event."""

from typing import Any

import pytest

from tests.support.doc_blocks import blocks_of
from voxtral_worker.client import events
from voxtral_worker.client.events import Event, read_event

TYPED: list[tuple[type[Event], dict[str, Any]]] = [
    (events.Delta, {"type": "text_delta", "text": "You", "turn_id": "1", "seq": 4}),
    (events.Response, {"type": "text_response", "text": "You", "metrics": {}, "turn_id": "1"}),
    (events.ToolCall, {"type": "tool_call", "call_id": "a", "name": "f", "arguments": {"b": 1}}),
    (events.Speech, {"type": "audio", "text": "Yes.", "turn_id": "1", "duration_ms": 400.0}),
    (events.Partial, {"type": "transcript_partial", "text": "turn on", "stable_chars": 4}),
    (events.Transcript, {"type": "transcript", "text": "Turn on.", "turn_id": "1", "seq": 9}),
    (events.Status, {"type": "status", "status": "connected", "session_id": "x"}),
    (events.Stats, {"type": "status", "stats": {"queue_size": 2}}),
    (events.Heartbeat, {"type": "heartbeat", "seq": 3}),
    (events.Pong, {"type": "control", "control_type": "pong"}),
    (events.Failure, {"type": "error", "error": "no", "code": "RATE_LIMITED", "retry_after": 2.5}),
]


@pytest.mark.parametrize(("kind", "message"), TYPED)
def test_a_message_becomes_its_own_event(kind: type[Event], message: dict[str, Any]) -> None:
    event = read_event(message)
    assert type(event) is kind
    assert event.message == message


def test_every_typed_event_has_a_message() -> None:
    assert set(Event.__subclasses__()) == {kind for kind, _ in TYPED}


def test_the_fields_of_an_event_are_those_of_its_message() -> None:
    failure, response = read_event(TYPED[-1][1]), read_event(TYPED[1][1])
    assert isinstance(failure, events.Failure)
    assert (failure.code, failure.retry_after_s, failure.turn_id) == ("RATE_LIMITED", 2.5, None)
    assert isinstance(response, events.Response)
    assert (response.text, response.turn_id) == ("You", "1")


def test_speech_has_the_frame_that_came_behind_it() -> None:
    told = {"type": "audio", "text": "Yes.", "turn_id": "1", "offset_ms": 400.0, "final": True}
    speech = read_event({**told, events.SOUND: b"sound"})
    assert isinstance(speech, events.Speech)
    assert (speech.sound, speech.offset_ms, speech.is_final) == (b"sound", 400.0, True)
    # The message is as it came.
    assert speech.message == told


def test_a_server_of_the_bare_document_is_understood() -> None:
    response = read_event({"type": "text_response", "text": "I am well", "timestamp": 1.0})
    assert isinstance(response, events.Response)
    assert (response.text, response.source, response.usage) == ("I am well", None, {})


@pytest.mark.parametrize(
    "message",
    [
        message
        for block in blocks_of("docs/protocol.md")
        if block.section == "Server to client" and block.language == "json"
        for message in block.messages()
    ],
    ids=lambda message: message.get("status", message["type"]),
)
def test_every_message_of_the_protocol_has_a_type(message: dict[str, Any]) -> None:
    event = read_event(message)
    assert type(event) is not Event
    assert event.request_id == message.get("request_id")


def test_what_is_not_known_is_a_plain_event() -> None:
    assert type(read_event({"type": "of tomorrow"})) is Event
