"""What a session asks the world to do; it does nothing itself."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from voxtral_worker.engine.request import GenerationRequest
from voxtral_worker.sessions.messages import ServerMessage


class LineName(Enum):
    """The two kinds of connection; each has its own sequence numbers."""

    AUDIO = "audio"
    CONTROL = "control"


@dataclass(frozen=True)
class Send:
    """Write a message on a line, and send it if somebody is connected there."""

    line: LineName
    message: ServerMessage


@dataclass(frozen=True)
class Generate:
    """Ask the engine; its events come back under `generation_id`."""

    generation_id: str
    request: GenerationRequest


@dataclass(frozen=True)
class Cancel:
    """The engine may stop; its later events are ignored."""

    generation_id: str


@dataclass(frozen=True)
class Commit:
    """A generation that was asked for ahead of time is now what a user waits for."""

    generation_id: str


@dataclass(frozen=True)
class Settle:
    """Count a speculation: `committed`, `discarded` or `yielded`, and the tokens it wasted."""

    outcome: str
    wasted_tokens: int = 0


Effect: TypeAlias = Send | Generate | Cancel | Commit | Settle
