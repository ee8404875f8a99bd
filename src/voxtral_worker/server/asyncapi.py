"""AsyncAPI 3.0 of the sockets: what may be sent to a worker, and what it sends."""

import functools
from typing import Any, get_args

from voxtral_worker import __version__
from voxtral_worker.server.native.messages import ClientMessage
from voxtral_worker.server.native.sent import SCHEMAS
from voxtral_worker.server.openai.realtime.client_event import AnyEvent
from voxtral_worker.values.described import components
from voxtral_worker.values.may import JsonSchema

_SESSION = {"session_id": {"description": "The `session_id` of `POST /session/create`."}}
_OWN_CONFIG = "The query `config` may hold the config of the session, as JSON."
# Channels by name: address, what it is for, and whether it takes audio.
_CHANNELS = {
    "audio": ("/ws/audio/{session_id}", "Audio, texts and controls of a session.", True),
    "control": ("/ws/control/{session_id}", "All of a session but its audio.", False),
    "ownAudio": ("/ws/audio", f"Opens a session of its own. {_OWN_CONFIG}", True),
    "ownControl": ("/ws/control", f"Opens a session of its own. {_OWN_CONFIG}", False),
}
_AUDIO = "audioFrame"
_SPEECH = "speechFrame"
_REALTIME_ANSWER = "realtimeAnswer"


def _at(*path: str) -> dict[str, str]:
    return {"$ref": "/".join(("#", *path))}


def _message(title: str, payload: JsonSchema, kind: str = "application/json") -> dict[str, Any]:
    return {"name": title, "title": title, "contentType": kind, "payload": payload}


def _received(kinds: Any) -> dict[str, JsonSchema]:
    """The schemas of messages by the names of their models."""
    return {kind.__name__: _at("components", "schemas", kind.__name__) for kind in get_args(kinds)}


def _sent() -> dict[str, JsonSchema]:
    """The schemas of what the worker sends, by the type or the status of each message."""
    named: dict[str, JsonSchema] = {}
    for (kind, status), schema in SCHEMAS.items():
        word = "stats" if (kind, status) == ("status", None) else status
        named[f"{kind}.{word}" if word else f"{kind}.sent"] = schema
    return named


def _binary(what: str) -> dict[str, Any]:
    payload = {"type": "string", "format": "binary", "description": what}
    return _message(what, payload, "application/octet-stream")


@functools.cache
def sockets() -> dict[str, Any]:
    """The description, made when it is asked for first: the start does not wait for it."""
    received, events, sent = _received(ClientMessage), _received(AnyEvent), _sent()
    messages = {
        **{name: _message(name, schema) for name, schema in (received | events | sent).items()},
        _AUDIO: _binary("Audio in the encoding of the session's config, in pieces of any size."),
        _SPEECH: _binary("Speech of an answer: the piece that the `audio` before it announces."),
        _REALTIME_ANSWER: _message(
            "An event of the worker in OpenAI's realtime API",
            {"type": "object", "required": ["type", "event_id"]},
        ),
    }
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}

    def open_channel(name: str, address: str, what: str, heard: list[str], told: list[str]) -> None:
        channels[name] = {
            "address": address,
            "description": what,
            **({"parameters": _SESSION} if "{" in address else {}),
            "messages": {each: _at("components", "messages", each) for each in (*heard, *told)},
        }
        for action, names in (("receive", heard), ("send", told)):
            operations[f"{action}.{name}"] = {
                "action": action,
                "channel": _at("channels", name),
                "messages": [_at("channels", name, "messages", each) for each in names],
            }

    for name, (address, what, takes_audio) in _CHANNELS.items():
        heard = [*received, _AUDIO] if takes_audio else [*received]
        open_channel(name, address, what, heard, [*sent, _SPEECH])
    told = "OpenAI's realtime API: docs/openai-api.md."
    open_channel("realtime", "/v1/realtime", told, [*events], [_REALTIME_ANSWER])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Voxtral worker",
            "version": __version__,
            "description": "The sockets of a session: see docs/protocol.md. `receive` is what a "
            "client sends, `send` what it gets.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": components(*get_args(ClientMessage), *get_args(AnyEvent)),
        },
    }
