"""The description of the realtime socket is true of what the worker understands."""

import json
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from referencing import Registry, Resource

from tests.support.fuzz_messages import mutations
from voxtral_worker.errors import WorkerError
from voxtral_worker.json_text import read_json
from voxtral_worker.server.asyncapi import sockets
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.parameters import read_parameters
from voxtral_worker.server.openai.realtime.client_event import (
    AnyEvent,
    ConversationItemCreate,
    ResponseCreate,
    SessionUpdate,
    read_event,
)
from voxtral_worker.server.openai.realtime.item_options import AnyItem
from voxtral_worker.server.openai.realtime.response_options import ResponseOptions
from voxtral_worker.server.openai.realtime.session_options import SessionOptions

DESCRIPTION = sockets()
NAMES = ModelNames("m")
ITEM: TypeAdapter[Any] = TypeAdapter(AnyItem)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
TOOLS = {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}
SILENCE = {
    "type": "server_vad",
    "threshold": 0.3,
    "prefix_padding_ms": 5,
    "silence_duration_ms": 300,
}
HEARD = {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": SILENCE}
SPOKEN = {"format": {"type": "audio/pcmu"}, "voice": "ash", "speed": 1.5}
TRANSCRIBED = {
    "turn_detection": {"type": "semantic_vad", "eagerness": "low", "create_response": True},
    "transcription": {"model": "whisper-1", "language": "de", "prompt": "kitchen"},
    "noise_reduction": {"type": "near_field"},
}
SESSIONS: tuple[dict[str, Any], ...] = (
    {
        "type": "realtime",
        "model": "m",
        "instructions": "Be kind.",
        "max_output_tokens": "inf",
        "output_modalities": ["audio"],
        "audio": {"input": HEARD, "output": SPOKEN},
        "truncation": "auto",
        **TOOLS,
    },
    {"type": "transcription", "audio": {"input": TRANSCRIBED}},
    {"type": "realtime", "audio": {"input": {"turn_detection": None, "transcription": None}}},
)
ITEMS: tuple[dict[str, Any], ...] = (
    {"type": "message", "role": "user", "id": "a", "content": "hello"},
    {"role": "user", "content": [{"type": "input_audio", "audio": "AAAA"}]},
    {"role": "assistant", "content": [{"type": "output_audio", "transcript": "hello"}]},
    {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
    {
        "type": "function_call",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    },
    {"type": "function_call_output", "call_id": "c", "output": "on", "object": "realtime.item"},
)
RESPONSES: tuple[dict[str, Any], ...] = (
    {
        "instructions": "Be brief.",
        "max_output_tokens": 5,
        "metadata": {"topic": "mood"},
        "conversation": "none",
        "input": [*ITEMS, {"type": "item_reference", "id": "a"}],
        "output_modalities": ["text"],
        **TOOLS,
    },
    {},
)
COMPLETE: tuple[dict[str, Any], ...] = (
    *({"type": "session.update", "event_id": "e", "session": session} for session in SESSIONS),
    *({"type": "conversation.item.create", "item": item} for item in ITEMS),
    *({"type": "response.create", "response": response} for response in RESPONSES),
    {"type": "response.create"},
    {"type": "input_audio_buffer.append", "audio": "AAAA"},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear", "event_id": None},
)
# Whether there is such an item or response is not known when these are read.
NAMING: tuple[dict[str, Any], ...] = (
    {"type": "conversation.item.retrieve", "item_id": "a"},
    {"type": "conversation.item.delete", "item_id": "a"},
    {"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": 5},
    {"type": "response.cancel", "response_id": "resp_1"},
)
EVENTS = (*COMPLETE, *NAMING)
REGISTRY: Registry[Any] = Registry().with_resource(
    "urn:sockets",
    Resource.from_contents(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **DESCRIPTION}
    ),
)
VALIDATORS = [
    Draft202012Validator(
        {"$ref": f"urn:sockets#/components/messages/{kind.__name__}/payload"}, registry=REGISTRY
    )
    for kind in get_args(AnyEvent)
]


def is_described(event: object) -> bool:
    """Whether exactly one of the described events is such an event."""
    return [validator.is_valid(event) for validator in VALIDATORS].count(True) == 1


def take(text: str) -> None:
    """Read an event as the worker does, with all that it holds. Raises WorkerError."""
    event = read_event(read_json(text, "the event"))
    match event:
        case SessionUpdate():
            # The description is that of a session with speech.
            speaking = SessionOptions(output_modalities=["audio"])
            speaking.updated(event.session, NAMES)
        case ConversationItemCreate():
            read_parameters(ITEM, event.item, ("item",))
        case ResponseCreate(response=response) if response is not None:
            read = read_parameters(TypeAdapter(ResponseOptions), response, ("response",))
            read.toolbox(SessionOptions().toolbox)


@pytest.mark.parametrize("event", EVENTS, ids=json.dumps)
def test_a_good_event_is_one_of_those_described(event: dict[str, Any]) -> None:
    take(json.dumps(event))
    assert is_described(event)


def test_the_examples_are_of_every_kind() -> None:
    assert {event["type"] for event in EVENTS} == {
        kind.model_fields["type"].annotation.__args__[0] for kind in get_args(AnyEvent)
    }


def test_what_the_worker_takes_is_described_and_most_of_what_it_refuses_is_not() -> None:
    refused = undescribed = 0
    for text in mutations(COMPLETE):
        try:
            take(text)
        except WorkerError:
            refused += 1
            try:
                undescribed += not is_described(json.loads(text))
            except ValueError:
                undescribed += 1
        else:
            assert is_described(json.loads(text)), text
    assert refused > 500
    # A schema cannot say that half of a surrogate pair is not a text, or what a tool may be.
    assert undescribed > 0.8 * refused
