"""Files of speech, read again by the decoder that reads callers' files."""

import io
import wave

import numpy as np
import pytest

from tests.support.voices import hum
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.speech.files import FORMATS, SpeechFile


@pytest.mark.parametrize("format_", sorted(FORMATS.keys() - {"pcm"}))
@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_file_holds_what_was_said(format_: str, is_streamed: bool) -> None:
    file = SpeechFile(format_, is_streamed=is_streamed)
    written = [file.push(hum(700)), file.push(hum(700)), file.finish()]
    assert file.duration_ms == 1400
    assert is_streamed == any(written[:2])
    samples = read_clip(b"".join(written), max_seconds=60)
    assert len(samples) == pytest.approx(1.4 * 16_000, abs=0.12 * 16_000)
    assert float(np.abs(samples).max()) == pytest.approx(0.5, abs=0.1)


def test_pcm_is_samples_and_nothing_else() -> None:
    file = SpeechFile("pcm")
    data = file.push(hum(1000)) + file.finish()
    assert len(data) == 48_000
    assert np.abs(np.frombuffer(data, "<i2")).max() == pytest.approx(16_383, abs=2)


def test_a_whole_wav_says_how_long_it_is() -> None:
    file = SpeechFile("wav", is_streamed=False)
    file.push(hum(1000))
    with wave.open(io.BytesIO(file.finish())) as whole:
        assert (whole.getframerate(), whole.getnframes()) == (24_000, 24_000)


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_a_file_of_nothing_can_still_be_read(format_: str) -> None:
    data = SpeechFile(format_).finish()
    if format_ == "pcm":
        assert set(data) == {0}
    else:
        assert float(np.abs(read_clip(data, max_seconds=60)).max(initial=0)) < 0.001
