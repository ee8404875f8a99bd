"""What a listener gets, decoded again by what the worker decodes its own callers' audio with."""

import numpy as np
import pytest

from tests.support.voices import hum
from voxtral_worker.audio.formats import decoder_for
from voxtral_worker.speech.encoding import PIECE_MS, Piece, SpeechEncoder
from voxtral_worker.speech.pieces import ENCODINGS

RATES = [8_000, 11_025, 16_000, 24_000, 44_100, 48_000]


def decoded(pieces: list[Piece], encoding: str) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    decoder = decoder_for(encoding)
    return np.concatenate([decoder.decode(piece.data) for piece in pieces])


def pitch_hz(samples: "np.ndarray[tuple[int], np.dtype[np.float32]]", rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * rate / len(samples)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", RATES)
def test_what_is_decoded_is_what_was_said(encoding: str, rate: int) -> None:
    encoder = SpeechEncoder(encoding, rate)
    said = hum(2000)
    # In the chunks in which it is made.
    pieces = [
        p for start in range(0, len(said), 7001) for p in encoder.push(said[start : start + 7001])
    ]
    pieces += encoder.end_sentence()
    heard = decoded(pieces, encoding)
    heard_rate = 48_000 if encoding == "opus" else rate
    assert len(heard) == pytest.approx(2 * heard_rate, abs=0.13 * heard_rate)
    assert sum(piece.duration_ms for piece in pieces) == pytest.approx(2000, abs=125)
    middle = heard[heard_rate // 2 : heard_rate * 3 // 2]
    assert pitch_hz(middle, heard_rate) == pytest.approx(220, abs=2)
    assert float(np.abs(middle).max()) == pytest.approx(0.5, abs=0.06)


def test_pieces_are_short_and_the_last_of_a_sentence_is_what_is_left() -> None:
    encoder = SpeechEncoder("pcm_s16le", 24_000)
    pieces = encoder.push(hum(1000))
    assert [piece.duration_ms for piece in pieces] == [PIECE_MS, PIECE_MS]
    (last,) = encoder.end_sentence()
    assert last.duration_ms == 200
    assert len(last.data) == 2 * 4800
    assert encoder.end_sentence() == []


def test_a_packet_of_opus_is_filled_up_at_the_end_of_a_sentence() -> None:
    encoder = SpeechEncoder("opus", 8_000)
    pieces = encoder.push(hum(300)) + encoder.end_sentence()
    assert [piece.duration_ms for piece in pieces] == [120, 120, 120]
    assert len(decoded(pieces, "opus")) == pytest.approx(48_000 * 0.36, abs=480)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_silence_is_a_piece_in_which_nothing_is_heard(encoding: str) -> None:
    silence = SpeechEncoder(encoding, 16_000).silence()
    heard = decoded([silence], encoding)
    assert len(heard)
    assert silence.duration_ms in (20, 120)
    assert float(np.abs(heard).max()) < 0.001


def test_what_is_too_loud_is_cut_and_does_not_wrap() -> None:
    (piece,) = SpeechEncoder("pcm_s16le", 24_000).push(np.full(9600, 1.7, np.float32))
    assert set(np.frombuffer(piece.data, "<i2").tolist()) == {32767}
