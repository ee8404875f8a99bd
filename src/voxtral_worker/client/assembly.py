"""Puts the frames of a connection together: one of sound belongs to the message before it."""

import json
from collections import deque
from typing import Any

from voxtral_worker.client.events import SOUND


class Assembly:
    """Makes messages of frames, and holds them until they are read."""

    def __init__(self) -> None:
        # A speech message whose sound comes in the next frame.
        self._spoken: dict[str, Any] | None = None
        self._whole: deque[dict[str, Any]] = deque()

    def take(self, frame: str | bytes) -> None:
        """Take one frame."""
        spoken, self._spoken = self._spoken, None
        if isinstance(frame, bytes):
            if spoken is not None:
                self._whole.append({**spoken, SOUND: frame})
            return
        if spoken is not None:
            # Speech messages that are repeated after a lost connection come without sound.
            self._whole.append(spoken)
        message: dict[str, Any] = json.loads(frame)
        if message.get("type") == "audio":
            self._spoken = message
        else:
            self._whole.append(message)

    def next(self) -> dict[str, Any] | None:
        """The oldest message that is complete and was not read; None: there is none."""
        return self._whole.popleft() if self._whole else None

    def clear(self) -> None:
        """Drop what was not read."""
        self._spoken = None
        self._whole.clear()
