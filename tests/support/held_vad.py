"""Ears that hear nothing until a test lets them."""

import asyncio
import threading
from typing import Any

from voxtral_worker.turns.vad import Samples, Vad


class HeldVad:
    """Real ears that hear nothing until they are opened."""

    def __init__(self, vad: Vad) -> None:
        self._vad = vad
        self.opened = threading.Event()
        # Whether any frames have come.
        self.asked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vad, name)

    async def listen(self, key: str, frames: Samples) -> Samples:
        self.asked = True
        while not self.opened.is_set():
            await asyncio.sleep(0.01)
        return await self._vad.listen(key, frames)
