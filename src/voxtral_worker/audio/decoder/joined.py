"""Splits data in which several audio files follow each other, as some programs write it."""

import re

from voxtral_worker.errors import BadAudio

MOST_FILES = 1_000
# How files of these kinds begin. FFmpeg stops at the end of the first such file and ignores the
# rest of the data. Files of other kinds it reads to the last byte, even if several are joined.
_WITH_BIT_3 = re.escape(bytes(value for value in range(256) if value & 8))
_BEGINNINGS = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rb"(?:RIFF|RIFX|RF64|BW64).{4}(?:WAVE|AVI )",
        rb"FORM.{4}AIF[FC]",
        rb"fLaC[\x00\x80]\x00\x00\x22",
        rb"#!AMR(?:-WB)?\n",
        rb"caff\x00\x01\x00\x00",
        rb"\x00\x00\x00[\x08-\x80]ftyp[ -~]{4}",
        rb"\x1aE\xdf\xa3[^\x1a]{1,64}?(?:webm|matroska)",
        rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",
        rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
        rb"\.snd\x00\x00.{6}\x00\x00\x00[\x01-\x1b]",
        rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09",
        rb"Creative Voice File\x1a",
        rb"TTA[12][\x01\x02]\x00",
        # The first block of a WavPack file: its number is zero.
        rb"wvpk.{6}\x00.{5}\x00{4}.{5}[" + _WITH_BIT_3 + rb"]",
    )
]
# A page of an Ogg file with its flags. A flag marks the first page of each track.
_OGG_PAGE = re.compile(rb"OggS\x00([\x00-\x07])")
_OGG_FIRST = 2


def files_in(data: bytes) -> list[bytes]:
    """The joined files in their order; in most data there is one. Raises BadAudio for too many."""
    starts = _starts(data)
    if len(starts) < 2:
        return [data]
    if len(starts) > MOST_FILES:
        raise BadAudio(f"audio is joined from more than {MOST_FILES} files")
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def _starts(data: bytes) -> list[int]:
    if data.startswith(b"OggS"):
        return _oggs_start(data)
    for beginning in _BEGINNINGS:
        if beginning.match(data):
            return [found.start() for found in beginning.finditer(data)]
    return []


def _oggs_start(data: bytes) -> list[int]:
    """Where each Ogg file begins: with a run of first pages, one for each of its tracks."""
    starts, was_first = [], False
    for page in _OGG_PAGE.finditer(data):
        is_first = bool(page[1][0] & _OGG_FIRST)
        if is_first and not was_first:
            starts.append(page.start())
        was_first = is_first
    return starts
