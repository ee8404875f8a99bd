"""A Python client of the streaming API, which loads no model and needs no torch."""

from voxtral_worker.client.client import VoxtralClient, VoxtralError
from voxtral_worker.client.events import Delta, Event, Failure, Response, Status

__all__ = ["Delta", "Event", "Failure", "Response", "Status", "VoxtralClient", "VoxtralError"]
