"""Whole recordings in memory, a few at a time."""

import asyncio
import base64
import binascii
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.errors import BadInput

Samples: TypeAlias = NDArray[np.float32]

MAX_AUDIO_S = 30 * 60
# Half an hour of samples takes 115 MB, and several times that while it is decoded.
RECORDINGS_AT_ONCE = 4
READ_TIMEOUT_S = 120.0


class Recordings:
    """At most four recordings are held at a time, over all callers."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(RECORDINGS_AT_ONCE)

    @contextlib.asynccontextmanager
    async def opened(
        self, field: str, read: Callable[[threading.Event], Samples]
    ) -> AsyncIterator[Samples]:
        """The recording, float32 [n], 16 kHz; may have to wait for its place.

        `read` may block; its event is set once nobody waits. Raises BadInput that names
        `field` when it takes too long, and what `read` raises.
        """
        async with self._places:
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    samples = await run_aside(read)
            except TimeoutError:
                raise BadInput(f"{field}: reading it took too long") from None
            yield samples


def from_base64(text: str) -> bytes:
    """Bytes of base64, with line breaks or as a `data:` address if it comes so.

    Raises BadInput.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("this is not base64") from None
