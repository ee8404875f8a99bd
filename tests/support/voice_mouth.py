"""A mouth for the process of the voice that does as its texts say; run in that process."""

import os
import time
from collections.abc import Iterator

import numpy as np

from voxtral_worker.speech.child import main
from voxtral_worker.speech.voice import VOICE_RATE, Samples

STEP_S = 0.02


class Obedient:
    """`pieces N`: so many seconds of speech, each made in STEP_S."""

    def load(self) -> None:
        pass

    def say(self, text: str, voice: str, speed: float) -> Iterator[Samples]:
        word, _, rest = text.partition(" ")
        if word == "raise":
            raise_()
        if word == "die":
            os._exit(1)
        if word == "hang":
            time.sleep(1000)
        if word == "lie":
            # One byte of speech, which is not a sample.
            os.write(line(), b"\1\1\0\0\0\1\0\0\0\0\0\0\0x")
            time.sleep(1000)
        if word == "memory":
            yield np.ones(1 << 30, np.float32)
        for _ in range(int(rest.split()[0])):
            time.sleep(STEP_S)
            yield np.zeros(VOICE_RATE, np.float32)


def raise_() -> None:
    raise ZeroDivisionError


def line() -> int:
    """The process's socket to the worker."""
    for name in os.listdir("/proc/self/fd"):
        if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
            return int(name)
    raise AssertionError


def serve() -> None:
    """Serve the worker that started this process."""
    main(Obedient(), memory_bytes=1 << 28)
