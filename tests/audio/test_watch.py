"""What does not look like the agreed format is named once; what does is never named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtral_worker.audio.clips import read_clip
from voxtral_worker.audio.watch import ENOUGH_BYTES, FormatWatch
from voxtral_worker.settings import EMBEDDED_MODEL

CLIPS = sorted((EMBEDDED_MODEL / "clips").glob("*.wav"))


def speech(clip: int = 0) -> NDArray[np.float32]:
    return read_clip(CLIPS[clip].read_bytes(), max_seconds=60)


def pcm(samples: NDArray[np.float32]) -> bytes:
    return bytes((samples * 32767).astype("<i2").tobytes())


def seen(data: bytes, encoding: str = "pcm_s16le", step: int = 640) -> list[str]:
    watch = FormatWatch(encoding)
    told = [watch.look(data[start : start + step]) for start in range(0, len(data), step)]
    return [each for each in told if each is not None]


@pytest.mark.parametrize("silence", [0, 3 * 640, 40_000])
@pytest.mark.parametrize("level", [1.0, 0.05, 0.003])
def test_float_samples_are_named_once(silence: int, level: float) -> None:
    data = (speech() * level).astype("<f4").tobytes()
    (told,) = seen(bytes(silence) + data)
    assert "should be pcm_s16le, but this looks like 32-bit float samples" in told


@pytest.mark.parametrize("step", [640, 642, 1000, 3200])
def test_two_equal_channels_are_named_once(step: int) -> None:
    (told,) = seen(pcm(np.repeat(speech(), 2)), step=step)
    assert "every sample comes twice" in told


@pytest.mark.parametrize(
    ("begins", "name"),
    [
        (b"RIFF\0\0\0\0WAVE", "wav"),
        (b"OggS\0", "ogg"),
        (b"\x1aE\xdf\xa3\x9f", "webm"),
        (b"ID3\x04", "mp3"),
        (b"fLaC\0", "flac"),
        (b"\0\0\0\x20ftypM4A ", "m4a"),
    ],
)
@pytest.mark.parametrize("encoding", ["pcm_s16le", "opus", "mulaw", "alaw"])
def test_a_files_beginning_is_named_once(begins: bytes, name: str, encoding: str) -> None:
    (told,) = seen(begins + bytes(range(1, 256)) * 40, encoding)
    assert f"{name} " in told
    assert encoding in told


@pytest.mark.parametrize("clip", range(len(CLIPS)))
@pytest.mark.parametrize("level", [1.0, 0.1, 0.001])
def test_speech_in_the_agreed_format_is_never_named(clip: int, level: float) -> None:
    assert seen(pcm(speech(clip) * level)) == []


@given(st.integers(0, 2**31), st.sampled_from([1, 100, 20_000]), st.booleans())
def test_noise_and_tones_are_never_named(seed: int, peak: int, is_tone: bool) -> None:
    random = np.random.default_rng(seed)
    wave = (
        np.sin(np.arange(4000) * random.uniform(0.01, 3)) if is_tone else random.normal(size=4000)
    )
    assert seen((wave * peak).clip(-32768, 32767).astype("<i2").tobytes()) == []


@pytest.mark.parametrize("value", [0, 1, -1, 14_000, -14_000, 32_767])
def test_a_constant_is_no_sound_of_another_kind(value: int) -> None:
    assert seen(np.full(8000, value, "<i2").tobytes()) == []


def test_only_the_beginning_is_looked_at() -> None:
    assert seen(pcm(speech()) + speech().astype("<f4").tobytes()) == []
    assert seen(bytes(640) + b"RIFF" + bytes(640)) == []
    assert seen(b"\1\2" * (ENOUGH_BYTES // 4)) == []
    assert seen(b"") == []
