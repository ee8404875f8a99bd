"""The format of speech that a listener wants, and a piece of speech in it."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Encoding: TypeAlias = Literal["pcm_s16le", "opus", "mulaw", "alaw"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
MAX_VOICE_CHARACTERS = 64


@dataclass(frozen=True)
class SpeechFormat:
    """The voice and encoding of speech; `sample_rate` in Hz, `language` an ISO 639-1 code."""

    voice: str
    encoding: str
    sample_rate: int
    language: str | None = None
    speed: float = 1.0


@dataclass(frozen=True)
class SpokenPiece:
    """A piece of a turn's speech. `text` is the sentence that starts with it, or empty."""

    turn_id: str
    text: str
    data: bytes = field(repr=False)
    duration_ms: float
    is_final: bool = False
