"""Files of every kind are read whole."""

import os
import re
import shutil
from collections.abc import Callable

import av
import numpy as np
import pytest

from tests.support.audio_kinds import (
    FRAGMENTS,
    KINDS,
    MP3,
    OPUS,
    RATE,
    Kind,
    Samples,
    ffmpeg,
    piped,
    speech,
    wav,
)
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.decoder.media import CODECS, FORMATS, read_sound
from voxtral_worker.errors import BadAudio
from voxtral_worker.settings import REPOSITORY

if shutil.which("ffmpeg") is None:
    assert not os.environ.get("CI"), "CI must have FFmpeg"
    pytest.skip("FFmpeg is not installed: apt-get install ffmpeg", allow_module_level=True)

TABLE = REPOSITORY / "docs" / "audio-files.md"
FRAME = RATE // 100
# Codecs put a few milliseconds of silence before or behind what they are given.
MOST_ADDED = RATE // 20


def loudness(samples: Samples) -> Samples:
    """Of each 10 ms."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    loud: Samples = np.sqrt(np.square(frames).mean(axis=1))
    return loud


def likeness(found: Samples, at: int, words: Samples) -> float:
    """How well words are found near a place, as a correlation of loudness."""
    got, said = loudness(found), loudness(words)
    best = -1.0
    for start in range(at // FRAME - 15, at // FRAME + 16):
        here = said[max(-start, 0) :]
        there = got[max(start, 0) :][: len(here)]
        if len(there) > len(said) - 10:
            best = max(best, float(np.corrcoef(here[: len(there)], there)[0, 1]))
    return best


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_file_of_this_kind_is_read_whole(kind: Kind) -> None:
    data = kind.make()
    samples = read_clip(data, max_seconds=60)
    assert samples.dtype == np.float32
    length = len(speech())
    assert abs(len(samples) - kind.times * length) <= kind.times * MOST_ADDED
    for time in range(kind.times):
        assert likeness(samples, time * length, speech()) > 0.95
    # In the child, where nothing can be loaded any more, it is as here.
    assert np.array_equal(samples, np.concatenate(read_sound(data, 60)))


def test_the_docs_have_the_table_of_kinds() -> None:
    table = TABLE.read_text("utf-8").partition("## Kinds")[2].partition("| --- | --- |")[2]
    rows = re.findall(r"^\| (.+?) \|$", table, re.MULTILINE)
    named = [name for row in rows for name in row.split(" | ")]
    assert named == [kind.name for kind in KINDS]
    assert len(KINDS) == len({kind.name for kind in KINDS}) > 40


def test_what_may_be_used_is_there() -> None:
    known = {name for names in av.formats_available for name in names.split(",")}
    assert set() == FORMATS - known
    for codec in CODECS:
        assert av.codec.Codec(codec, "r").type == "audio"


@pytest.mark.parametrize(
    "make",
    [
        wav,
        MP3,
        OPUS,
        FRAGMENTS,
        ffmpeg("flac"),
        ffmpeg("aiff"),
        ffmpeg("ipod", "-c:a aac -ar 48000 -movflags faststart"),
        piped("webm", "-c:a libopus"),
        ffmpeg("adts", "-c:a aac -ar 48000"),
        ffmpeg("asf", "-c:a wmav2"),
        ffmpeg("mpegts", "-c:a aac -ar 48000"),
    ],
    ids=["wav", "mp3", "ogg", "mp4", "flac", "aiff", "m4a", "webm", "aac", "wma", "mpegts"],
)
def test_of_a_file_that_is_cut_off_counts_what_can_be_decoded(make: Callable[[], bytes]) -> None:
    data = make()
    samples = read_clip(data[: len(data) * 3 // 4], max_seconds=60)
    assert 0.5 * len(speech()) < len(samples) < 0.95 * len(speech())
    assert likeness(samples, 0, speech()[: len(speech()) // 2]) > 0.95


def test_a_film_without_sound_is_told() -> None:
    silent = ffmpeg("matroska", "-an -c:v mpeg4", "-f lavfi -i testsrc=size=64x64:duration=1")()
    with pytest.raises(BadAudio, match="no audio track"):
        read_clip(silent, max_seconds=60)


def test_an_m4a_without_its_index_is_told() -> None:
    data = ffmpeg("ipod", "-c:a aac")()
    with pytest.raises(BadAudio, match="damaged"):
        read_clip(data[: len(data) // 2], max_seconds=60)


def test_a_wav_with_chunks_behind_its_samples_has_no_noise_at_its_end() -> None:
    data = wav() + b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf59.27.100\0"
    assert len(read_clip(data, max_seconds=60)) == len(speech())


@pytest.mark.parametrize(
    "container", ["mp3 -ar 44100 -id3v2_version 3", "flac", "ipod -c:a aac -ar 48000", "ogg", "asf"]
)
def test_a_cover_of_megabytes_stands_in_no_recordings_way(container: str) -> None:
    name, _, options = container.partition(" ")
    noise = "-f lavfi -i nullsrc=s=1400x1400:d=1:r=1,geq=random(1)*255:128:128"
    cover = "-map 0:a -map 1:v -c:v png -disposition:v attached_pic -frames:v 1"
    if name == "ogg":
        cover = f"-map 0:a -metadata METADATA_BLOCK_PICTURE={'A' * 100_000}"
    data = ffmpeg(name, f"{cover} {options}", noise)()
    assert len(data) > (100_000 if name == "ogg" else 1 << 20)
    samples = read_clip(data, max_seconds=60)
    assert abs(len(samples) - len(speech())) <= MOST_ADDED
    assert likeness(samples, 0, speech()) > 0.95


def test_more_files_than_anybody_joins_are_bad_audio() -> None:
    with pytest.raises(BadAudio, match="1000 files"):
        read_clip(1_001 * wav(np.zeros(16, np.float32)), max_seconds=60)
