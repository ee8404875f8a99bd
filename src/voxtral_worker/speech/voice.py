"""The seam between the callers that want a text said and the voice that says it."""

from collections.abc import AsyncGenerator
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]

# Samples per second of all speech inside the worker.
VOICE_RATE = 24_000
# Whatever voice the worker has.
DEFAULT_VOICE = "default"
# OpenAI's clients ask for one of these, whichever server answers.
OPENAI_VOICES = frozenset(
    "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()
)


class Voice(Protocol):
    """Says one text at a time for each caller; owned by the loop of `Speech`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The voices that there are, the default first; empty where any name may be good."""

    async def load(self) -> None:
        """Get ready. Raises SpeechFailed."""

    def say(self, text: str, voice: str, speed: float) -> AsyncGenerator[Samples, None]:
        """Speech as it is made, float32 [n] at VOICE_RATE; nothing where there is nothing to say.

        Raises SpeechFailed. Closed early, it stops at once.
        """

    async def close(self) -> None:
        """Let go of what is open."""
