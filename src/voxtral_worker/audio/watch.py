"""Checks the beginning of live audio for data that is not in the session's format.

Samples of another format sound like noise or silence to the VAD. The client would then wait for an
answer without ever getting an error.
"""

import numpy as np
from numpy.typing import NDArray

# So many bytes of sound (not silence) are enough to recognize the format.
ENOUGH_BYTES = 2048
# After so many bytes the watch ends, even if they were nearly all silence.
MOST_BYTES = 1 << 16
# With fewer different values it is a constant signal and not sound.
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
    """Reports at most once that a stream seems to have another format. It waits out silence."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._heard = b""
        self._has_begun = False
        self._is_over = False

    def look(self, chunk: bytes) -> str | None:
        """Take a chunk; returns a sentence for the client, or None."""
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
            # A constant has no format that could be recognized.
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
    """Whether nearly all words are 32-bit floats between 2^-24 and 2, by their exponents.

    Real 16-bit samples are spread around 0; their upper bits do not all look like exponents.
    """
    exponents = (words >> 23) & 0xFF
    return bool(np.mean((exponents >= 103) & (exponents <= 127)) > 0.99)


def _are_pairs(words: NDArray[np.uint32]) -> bool:
    """Whether nearly all words have two equal halves: the same sample on two channels."""
    return bool(np.mean((words & 0xFFFF) == words >> 16) > 0.99)
