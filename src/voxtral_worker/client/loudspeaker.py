"""Plays speech on the loudspeaker as it comes, and can stop at once."""

import threading
from types import TracebackType
from typing import Any, Self

from voxtral_worker.client.errors import VoxtralError

RATE = 24_000
BYTES_PER_SAMPLE = 2


class Loudspeaker:
    """Plays 16-bit mono PCM at 24 kHz. It holds all that was given until it is played or cut."""

    def __init__(self, library: Any) -> None:
        """Open the default device; `library` is the module `sounddevice`. Raises VoxtralError."""
        self._waiting = bytearray()
        # Guards `_waiting`: PortAudio calls `_fill` on a thread of its own.
        self._changed = threading.Condition()
        try:
            self._stream = library.RawOutputStream(
                samplerate=RATE, channels=1, dtype="int16", callback=self._fill
            )
            self._stream.start()
        except library.PortAudioError as error:
            raise VoxtralError(f"no loudspeaker can be opened: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def is_playing(self) -> bool:
        """Whether some sound is not played yet."""
        with self._changed:
            return bool(self._waiting)

    def play(self, pcm: bytes) -> None:
        """Play this after what is waiting."""
        with self._changed:
            self._waiting += pcm

    def cut(self) -> None:
        """Drop all that is not played yet."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all is played. False: that took longer than `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def _fill(self, out: Any, *_: object) -> None:
        size = len(out)
        with self._changed:
            data = bytes(self._waiting[:size])
            del self._waiting[:size]
            if not self._waiting:
                self._changed.notify_all()
        out[:] = data + bytes(size - len(data))
