"""The interface of a voice, which `Speech` calls."""

from collections.abc import AsyncGenerator
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]

# Samples per second of all speech inside the worker.
VOICE_RATE = 24_000
# The name that means the worker's own default voice.
DEFAULT_VOICE = "default"
# Names of OpenAI's voices. OpenAI's clients send one of them to any server.
OPENAI_VOICES = frozenset(
    "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()
)


class Voice(Protocol):
    """Turns texts into speech. It belongs to the event loop of `Speech`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its voices, the default first. Empty if any name may be valid."""

    async def load(self) -> None:
        """Load the voice. Raises SpeechFailed."""

    def say(self, text: str, voice: str, speed: float) -> AsyncGenerator[Samples, None]:
        """Yield speech while it is made, float32 [n] at VOICE_RATE; nothing for an empty text.

        Stops at once if it is closed early. Raises SpeechFailed.
        """

    async def close(self) -> None:
        """Let go of what is open."""
