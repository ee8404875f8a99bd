"""A Python client of the streaming API. It loads no model and does not need torch."""

from voxtral_worker.client.client import VoxtralClient
from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.events import (
    Delta,
    Event,
    Failure,
    Heartbeat,
    Partial,
    Pong,
    Response,
    Speech,
    Stats,
    Status,
    ToolCall,
    Transcript,
)
from voxtral_worker.client.options import Options
from voxtral_worker.client.retry import Retry
from voxtral_worker.client.sync import Voxtral

__all__ = [
    "Delta",
    "Event",
    "Failure",
    "Heartbeat",
    "Options",
    "Partial",
    "Pong",
    "Response",
    "Retry",
    "Speech",
    "Stats",
    "Status",
    "ToolCall",
    "Transcript",
    "Voxtral",
    "VoxtralClient",
    "VoxtralError",
]
