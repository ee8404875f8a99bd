"""The voice that comes with the worker: hibari-tts, English, 8 MB, from its own package.

It reads numbers, dates, amounts and abbreviations as people say them. It makes one sentence at a
time, 60 times faster than real time, on the calling thread. The worker runs it in a child process
(`child.py`).
"""

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from voxtral_worker.speech.voice import VOICE_RATE, Samples

if TYPE_CHECKING:
    from hibari import Hibari

# The model was made for sentences of at most so many phonemes. Longer ones are spoken in pieces.
MOST_PHONEMES = 400
# The voice is quieter than usual speech: its sentences are about 27 dB below full scale.
GAIN = 1.6
# Samples below this are silence. The noise in the voice's own silence is a tenth of it.
SILENCE = 0.003
# How much silence is kept around a piece. The voice makes 300 ms before it, for which the listener
# would have to wait, and 500 ms after it.
LEAD_SAMPLES = VOICE_RATE * 40 // 1000
TAIL_SAMPLES = VOICE_RATE * 220 // 1000
# After a piece that is not the end of a sentence.
CLAUSE_TAIL_SAMPLES = VOICE_RATE * 120 // 1000
SENTENCE_ENDS = (".", "!", "?", "…")
FADE_SAMPLES = VOICE_RATE * 5 // 1000
# A fixed seed: the same text always sounds the same.
SEED = 0


def is_installed() -> bool:
    """Whether the voice's package is installed."""
    return importlib.util.find_spec("hibari") is not None


def folder() -> str:
    """The folder of downloaded voices, which do not come with the package."""
    from hibari import voices

    return str(voices.cache_dir())


def voices_there() -> tuple[str, ...]:
    """Names of the voices whose files are on this machine, the default first. Downloads nothing."""
    from hibari import voices

    there = [name for name in voices.VOICES if _is_there(name)]
    return (voices.DEFAULT, *(name for name in there if name != voices.DEFAULT))


class EmbeddedVoice:
    """Loads each voice when a text first needs it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Hibari] = {}

    def load(self) -> None:
        """Load the default voice; this takes a second."""
        list(self.say("Ready.", voices_there()[0], 1.0))

    def say(self, text: str, voice: str, speed: float) -> Iterator[Samples]:
        """Yield speech, float32 [n] at VOICE_RATE, in pieces of at most MOST_PHONEMES."""
        own = self._voice(voice)
        for phonemes in in_pieces(own.g2p(text), MOST_PHONEMES):
            is_whole = phonemes.rstrip(" \"'”’)").endswith(SENTENCE_ENDS)
            tail = TAIL_SAMPLES if is_whole else CLAUSE_TAIL_SAMPLES
            samples = trimmed(own.from_phonemes(phonemes, speed, SEED), tail)
            if len(samples):
                yield samples

    def _voice(self, name: str) -> "Hibari":
        from hibari import Hibari

        if name not in self._loaded:
            self._loaded[name] = Hibari(name)
        return self._loaded[name]


def in_pieces(text: str, most: int) -> list[str]:
    """Cut a text at spaces into pieces of at most `most` characters."""
    pieces = []
    while len(text) > most:
        space = text.rfind(" ", 1, most)
        cut = space if space > 0 else most
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text] if text.strip() else pieces


def trimmed(samples: Samples, tail_samples: int = TAIL_SAMPLES) -> Samples:
    """Speech without the long silence around it, faded at both ends. Empty if all is silence."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE)
    if not len(loud):
        return np.zeros(0, np.float32)
    begin, end = max(0, loud[0] - LEAD_SAMPLES), loud[-1] + tail_samples
    kept: Samples = np.clip(GAIN * samples[begin:end], -1.0, 1.0).astype(np.float32)
    fade = np.linspace(0.0, 1.0, min(FADE_SAMPLES, len(kept)), dtype=np.float32)
    kept[: len(fade)] *= fade
    kept[len(kept) - len(fade) :] *= fade[::-1]
    return kept


def _is_there(name: str) -> bool:
    from hibari import voices

    try:
        voices.voice_path(name, download_missing=False)
    except FileNotFoundError:
        return False
    return True
