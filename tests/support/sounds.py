"""Sounds that tests and measures play: the bundled sentences, and a quiet room."""

import json
import wave

import numpy as np

from voxtral_worker.settings import EMBEDDED_MODEL

FRAME_SAMPLES = 512
RATE = 16_000


def clips() -> dict[str, bytes]:
    """The bundled sentences: words → 16-bit samples, whole frames."""
    folder = EMBEDDED_MODEL / "clips"
    found = {}
    for name, words in json.loads((folder / "index.json").read_text()).items():
        with wave.open(str(folder / name)) as file:
            data = file.readframes(file.getnframes())
        found[words] = data + bytes(-len(data) % (2 * FRAME_SAMPLES))
    return found


def silence(frames: int) -> bytes:
    """A quiet room: digital silence is what no microphone gives."""
    noise = 6 * np.random.default_rng(7).standard_normal(frames * FRAME_SAMPLES)
    return noise.astype("<i2").tobytes()
