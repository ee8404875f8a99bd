"""Sound files of any kind become 16-bit mono PCM at 16 kHz."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxtral_worker.client.errors import VoxtralError
from voxtral_worker.client.sound import CHUNK_BYTES, paced, read_sound

HERTZ = 440.0


def tone(rate: int, channels: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    one = 0.5 * np.sin(2 * np.pi * HERTZ * np.arange(rate) / rate)
    return np.repeat(one[:, None], channels, axis=1)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16_000, 1, "PCM_16"),
        ("a.wav", 8_000, 1, "PCM_U8"),
        ("a.wav", 44_100, 2, "PCM_24"),
        ("a.wav", 96_000, 6, "PCM_32"),
        ("a.wav", 48_000, 2, "FLOAT"),
        ("a.wav", 8_000, 1, "ULAW"),
        ("a.flac", 48_000, 2, "PCM_16"),
        ("a.mp3", 44_100, 2, None),
        ("a.ogg", 48_000, 1, "OPUS"),
        ("a.ogg", 44_100, 2, "VORBIS"),
    ],
)
def test_any_common_file_is_brought_to_16_khz_mono(
    tmp_path: Path, name: str, rate: int, channels: int, subtype: str | None
) -> None:
    path = tmp_path / name
    soundfile.write(path, tone(rate, channels), rate, subtype=subtype)
    heard = np.frombuffer(read_sound(str(path)), "<i2") / 32767
    assert abs(len(heard) - 16_000) <= 1_600
    strongest = np.argmax(np.abs(np.fft.rfft(heard))) * 16_000 / len(heard)
    assert abs(strongest - HERTZ) < 2
    assert abs(np.sqrt(2 * np.mean(heard[2_000:14_000] ** 2)) - 0.5) < 0.03


def test_samples_at_16_khz_are_kept_as_they_are(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32767, 32767, 5000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    kept = np.frombuffer(read_sound(str(tmp_path / "a.wav")), "<i2")
    assert np.abs(kept.astype(int) - samples).max() <= 1


@pytest.mark.parametrize("content", [b"", b"not a sound", b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_no_sound_is_told_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(VoxtralError, match=r"a\.wav: not a readable sound file"):
        read_sound(str(path))


def test_a_file_that_cannot_be_opened_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(VoxtralError, match="missing.wav: No such file"):
        read_sound(str(tmp_path / "missing.wav"))
    with pytest.raises(VoxtralError, match="Is a directory"):
        read_sound(str(tmp_path))


def test_pacing_changes_no_sample() -> None:
    data = bytes(range(256)) * 40

    async def all_of_it() -> list[bytes]:
        return [chunk async for chunk in paced(data, lambda: 1e6)]

    chunks = asyncio.run(all_of_it())
    assert b"".join(chunks) == data
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK_BYTES}
