"""The loudspeaker: plays speech as it comes, and stops at once."""

import threading
from types import TracebackType
from typing import Any, Self

from voxtral_worker.client.errors import VoxtralError

RATE = 24_000
BYTES_PER_SAMPLE = 2


class Loudspeaker:
    """Plays 16-bit mono PCM at 24 kHz; what waits is as much as was given and not cut."""

    def __init__(self, library: Any) -> None:
        """`library` is the module `sounddevice`. Raises VoxtralError."""
        self._waiting = bytearray()
        # PortAudio asks for sound on a thread of its own.
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
        """Whether something is still to be heard."""
        with self._changed:
            return bool(self._waiting)

    def play(self, pcm: bytes) -> None:
        """Play behind what is being played."""
        with self._changed:
            self._waiting += pcm

    def cut(self) -> None:
        """Play nothing more of what was given."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all was played; False when it took longer."""
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
