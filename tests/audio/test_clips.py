import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtral_worker.audio.clips import read_clip
from voxtral_worker.errors import BadAudio, TooLarge

RATE = 16_000


def sine(seconds: float, rate: int) -> NDArray[np.float32]:
    times = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 300 * times)).astype(np.float32)


def file_of(samples: NDArray[np.float32], rate: int, kind: str) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format=kind)
    return written.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_file_of_any_kind_and_rate_is_read_as_16_khz(kind: str, rate: int) -> None:
    samples = read_clip(file_of(sine(1.0, rate), rate, kind), max_seconds=10)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - RATE) < 0.2 * RATE
    # The pitch is right whatever silence a codec put in front.
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(spectrum.argmax() * RATE / len(samples) - 300) < 5
    assert abs(np.abs(samples[RATE // 4 : RATE // 2]).max() - 0.5) < 0.05


def test_channels_are_averaged() -> None:
    left, right = sine(0.5, RATE), np.zeros(RATE // 2, np.float32)
    samples = read_clip(file_of(np.stack([left, right], 1), RATE, "WAV"), max_seconds=10)
    assert np.abs(samples - left / 2).max() < 1e-4


def test_audio_as_long_as_allowed_is_read_and_longer_is_too_large() -> None:
    assert len(read_clip(file_of(sine(1.0, RATE), RATE, "WAV"), max_seconds=1)) == RATE
    with pytest.raises(TooLarge):
        read_clip(file_of(sine(1.01, RATE), RATE, "WAV"), max_seconds=1)


def test_a_file_without_samples_is_bad_audio() -> None:
    with pytest.raises(BadAudio):
        read_clip(file_of(np.zeros(0, np.float32), RATE, "WAV"), max_seconds=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_file_of_floats_that_are_no_numbers_is_bad_audio(bad: float) -> None:
    samples = sine(0.5, RATE)
    samples[100] = bad
    written = io.BytesIO()
    soundfile.write(written, samples, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(BadAudio):
        read_clip(written.getvalue(), max_seconds=1)


def test_a_file_of_floats_beyond_full_scale_is_cut_off_there() -> None:
    written = io.BytesIO()
    soundfile.write(written, sine(0.5, RATE) * 1e30, RATE, format="WAV", subtype="FLOAT")
    assert np.abs(read_clip(written.getvalue(), max_seconds=1)).max() <= 1


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_junk_is_bad_audio(data: bytes) -> None:
    with pytest.raises(BadAudio):
        read_clip(data, max_seconds=1)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_damaged_file_is_read_in_part_or_bad_audio(kind: str) -> None:
    data = file_of(sine(1.0, RATE), RATE, kind)
    random = np.random.default_rng(3)
    for _ in range(20):
        damaged = bytearray(data[: random.integers(4, len(data))])
        for at in random.integers(0, len(damaged), 8):
            damaged[at] = random.integers(256)
        try:
            samples = read_clip(bytes(damaged), max_seconds=10)
        except (BadAudio, TooLarge):
            continue
        assert len(samples)


def header_of(rate: int, samples: int = 400) -> bytes:
    """A wav file with any rate in its header."""
    data = file_of(np.zeros(samples, np.float32), RATE, "WAV")
    return data[:24] + rate.to_bytes(4, "little") + (2 * rate).to_bytes(4, "little") + data[32:]


def most_memory_of(data: bytes) -> int:
    """Most bytes that reading a clip takes in the worker beyond what it had before."""
    code = """
import resource, sys
import numpy as np
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.errors import BadInput
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_clip(data, max_seconds=1800)
except BadInput:
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("rate", [1009, 4001, 20_011, 48_017, 192_007])
def test_an_odd_rate_takes_no_more_memory_than_another(rate: int) -> None:
    assert most_memory_of(header_of(rate)) < 100 << 20


def test_many_channels_of_a_small_file_take_no_more_memory_than_their_average() -> None:
    written = io.BytesIO()
    seconds = 60
    soundfile.write(written, np.zeros((seconds * 96_000, 8), np.int16), 96_000, format="FLAC")
    result = seconds * RATE * 4
    assert most_memory_of(written.getvalue()) < 3 * result + (60 << 20)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_no_recorder_has_is_bad_audio(rate: int) -> None:
    with pytest.raises(BadAudio, match="samples a second"):
        read_clip(header_of(rate), max_seconds=1)
