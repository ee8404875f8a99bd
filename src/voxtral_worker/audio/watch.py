"""Looks at the beginning of live audio for what is not in the format that was agreed on.

Samples of another kind are heard as noise or as nothing, and a client would wait for ever.
"""

import numpy as np
from numpy.typing import NDArray

# So much sound tells kinds of samples apart, and so much is looked at at most, in bytes.
ENOUGH_BYTES = 2048
MOST_BYTES = 1 << 16
LEAST_VALUES = 8
_FILES = {
    b"RIFF": "a wav file",
    b"RF64": "a wav file",
    b"OggS": "an ogg file",
    b"\x1aE\xdf\xa3": "a webm or mkv file",
    b"ID3": "an mp3 file",
    b"fLaC": "a flac file",
    b"caff": "a caf file",
    b"FORM": "an aiff file",
}


class FormatWatch:
    """Says at most once what a stream seems to be instead; silence says nothing yet."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._heard = b""
        self._has_begun = False
        self._is_over = False

    def look(self, chunk: bytes) -> str | None:
        """A sentence for whoever sends this, or None."""
        if self._is_over or not chunk:
            return None
        told = None if self._has_begun else _file_of(chunk)
        self._has_begun = True
        if told is None and self._encoding == "pcm_s16le":
            told = self._samples(chunk)
        elif self._encoding != "pcm_s16le":
            self._is_over = True
        if told is None:
            return None
        self._is_over = True
        return f"audio should be {self._encoding}, but this looks like {told}"

    def _samples(self, chunk: bytes) -> str | None:
        self._heard += chunk[: MOST_BYTES - len(self._heard)]
        words = np.frombuffer(self._heard[: len(self._heard) // 4 * 4], "<u4")
        sound = words[words != 0]
        if sound.nbytes < ENOUGH_BYTES:
            self._is_over = len(self._heard) >= MOST_BYTES
            return None
        self._is_over = True
        if len(np.unique(sound)) < LEAST_VALUES:
            # A constant is no sound of any kind.
            return None
        if _are_floats(sound):
            return "32-bit float samples"
        if _are_pairs(sound):
            return "two channels, one behind the other: every sample comes twice"
        return None


def _file_of(chunk: bytes) -> str | None:
    if chunk[4:8] == b"ftyp":
        return "an mp4 or m4a file"
    return next((name for begins, name in _FILES.items() if chunk.startswith(begins)), None)


def _are_floats(words: NDArray[np.uint32]) -> bool:
    """Whether the upper halves are exponents of numbers between 2^-24 and 2.

    Read as 16-bit samples they would all lie in a narrow band far from 0, which no sound does.
    """
    exponents = (words >> 23) & 0xFF
    return bool(np.mean((exponents >= 103) & (exponents <= 127)) > 0.99)


def _are_pairs(words: NDArray[np.uint32]) -> bool:
    """Whether both halves of nearly all words are equal."""
    return bool(np.mean((words & 0xFFFF) == words >> 16) > 0.99)
