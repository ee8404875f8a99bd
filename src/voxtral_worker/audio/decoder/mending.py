"""Repairs headers with wrong sizes.

Recorders write the size of the sound last. A recorder that was stopped early, or that streams and
cannot go back, leaves a wrong size behind, and FFmpeg would read less than there is.
"""

import re
from collections.abc import Iterator
from typing import Literal

# The encoding number of an au file, by the format tag and the bits per sample of a wav file.
_AU_ENCODINGS = {
    (b"\x00\x01", b"\x00\x10"): b"\x00\x00\x00\x03",
    (b"\x00\x01", b"\x00\x18"): b"\x00\x00\x00\x04",
    (b"\x00\x01", b"\x00\x20"): b"\x00\x00\x00\x05",
    (b"\x00\x03", b"\x00\x20"): b"\x00\x00\x00\x06",
    (b"\x00\x03", b"\x00\x40"): b"\x00\x00\x00\x07",
}
_ID = re.compile(rb"[ -~]{4}")
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


def mended(file: bytes) -> bytes:
    """The file with a header that lets FFmpeg read all of it. Most files are returned unchanged."""
    match file[:4], file[8:12]:
        case b"RIFF", b"WAVE":
            return _with_true_size(file)
        case b"RF64" | b"BW64", b"WAVE" if not any(file[28:36]):
            # A 64-bit size of 0 was never filled in. Read it as a plain wav.
            return b"RIFF" + file[4:]
        case b"RIFX", b"WAVE":
            return _with_au_header(file)
        case b"FORM", b"AIFF" | b"AIFC":
            return _with_sound_size(file)
        case b"riff", _:
            return _with_w64_size(file)
    return file


def _with_true_size(file: bytes) -> bytes:
    """A wav without a size, if its samples continue after the size that its header gives."""
    for kind, start, size in _chunks(file, "little"):
        if kind == b"data":
            end = start + size
            # The size is right if the file ends there or another chunk follows.
            if end >= len(file) or _is_chunk(file, end) or _is_chunk(file, end + size % 2):
                break
            return file[: start - 4] + b"\xff\xff\xff\xff" + file[start:]
    return file


def _with_au_header(file: bytes) -> bytes:
    """A big-endian wav as an au file, which FFmpeg can read: au samples are big-endian too."""
    encoding, form = None, b""
    for kind, start, size in _chunks(file, "big"):
        if kind == b"fmt ":
            form = file[start : start + 16]
            encoding = _AU_ENCODINGS.get((form[:2], form[14:]))
        elif kind == b"data" and encoding is not None:
            channels, rate = b"\x00\x00" + form[2:4], form[4:8]
            samples = file[start : start + size]
            return b".snd\x00\x00\x00\x18\xff\xff\xff\xff" + encoding + rate + channels + samples
    return file


def _with_sound_size(file: bytes) -> bytes:
    """An aiff with the true size of its sound, if its header has the size 0."""
    for kind, start, size in _chunks(file, "big"):
        if kind == b"SSND" and size == 0:
            true = (len(file) - start).to_bytes(4, "big")
            whole = (len(file) - 8).to_bytes(4, "big")
            return file[:4] + whole + file[8 : start - 4] + true + file[start:]
    return file


def _with_w64_size(file: bytes) -> bytes:
    """A Wave64 whose samples end with the file, if its header gives a size beyond that."""
    at = file.find(_W64_DATA)
    size = int.from_bytes(file[at + 16 : at + 24], "little")
    if at < 0 or at + size <= len(file):
        return file
    return file[: at + 16] + (len(file) - at).to_bytes(8, "little") + file[at + 24 :]


def _chunks(file: bytes, order: Literal["little", "big"]) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and size of each chunk of a wav or an aiff."""
    at = 12
    while at + 8 <= len(file):
        size = int.from_bytes(file[at + 4 : at + 8], order)
        yield file[at : at + 4], at + 8, size
        at += 8 + size + size % 2


def _is_chunk(file: bytes, at: int) -> bool:
    """Whether the file ends here, or a chunk or a tag begins."""
    head = file[at : at + 8]
    if len(head) < 8 or head.startswith((b"ID3", b"TAG", b"APETAGEX")):
        return True
    return bool(_ID.match(head)) and at + 8 + int.from_bytes(head[4:], "little") <= len(file) + 1
