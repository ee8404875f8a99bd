import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtral_worker.audio.formats import (
    OPUS_RATE,
    Opus,
    Pcm16,
    alaw_table,
    decoder_for,
    mulaw_table,
)
from voxtral_worker.errors import BadAudio

PACKET_SAMPLES = 960


def opus_packets(samples: NDArray[np.float32], layout: str = "mono") -> list[bytes]:
    """Encode samples, float32 [n] at 48 kHz, in packets of 20 ms."""
    codec = av.CodecContext.create("libopus", "w")
    codec.sample_rate, codec.layout, codec.format = OPUS_RATE, layout, "flt"
    channels = codec.layout.nb_channels
    packets = []
    for start in range(0, len(samples) - PACKET_SAMPLES + 1, PACKET_SAMPLES):
        block = np.repeat(samples[start : start + PACKET_SAMPLES], channels)[None]
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
        frame.sample_rate, frame.pts = OPUS_RATE, start
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return packets + [bytes(packet) for packet in codec.encode(None)]


def sine(seconds: float, rate: int = OPUS_RATE, hz: float = 440.0) -> NDArray[np.float32]:
    times = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def likeness(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Highest correlation of two signals over the delays a codec may add."""
    length = min(len(a), len(b)) - 2000
    return max(
        float(np.corrcoef(a[1000 : 1000 + length], b[start : start + length])[0, 1])
        for start in range(500, 2000)
    )


@given(st.lists(st.integers(-32768, 32767), max_size=50))
@settings(max_examples=50, deadline=None)
def test_pcm_samples_are_little_endian_shares_of_full_scale(samples: list[int]) -> None:
    decoded = Pcm16().decode(np.array(samples, "<i2").tobytes())
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded * 32768, np.array(samples, np.float32))


def test_an_odd_number_of_pcm_bytes_is_bad_audio() -> None:
    with pytest.raises(BadAudio) as refused:
        Pcm16().decode(b"abc")
    assert refused.value.code == "AUDIO_FORMAT_ERROR"


@pytest.mark.parametrize(
    ("code", "value"),
    [(0xFF, 0), (0x7F, 0), (0x80, 32124), (0x00, -32124), (0xFE, 8), (0x7E, -8), (0xEF, 132)],
)
def test_mulaw_codes_have_the_values_of_the_standard(code: int, value: int) -> None:
    assert decoder_for("mulaw").decode(bytes([code])) == np.float32(value / 32768)


@pytest.mark.parametrize(
    ("code", "value"),
    [(0xD5, 8), (0x55, -8), (0xAA, 32256), (0x2A, -32256), (0xD4, 24), (0xC5, 264), (0xF5, 528)],
)
def test_alaw_codes_have_the_values_of_the_standard(code: int, value: int) -> None:
    assert decoder_for("alaw").decode(bytes([code])) == np.float32(value / 32768)


@pytest.mark.parametrize("name", ["mulaw", "alaw"])
def test_g711_tables_are_those_of_another_implementation(name: str) -> None:
    table = {"mulaw": mulaw_table, "alaw": alaw_table}[name]()
    codec = av.CodecContext.create(f"pcm_{name}", "r")
    codec.sample_rate, codec.layout = 8000, "mono"
    (frame,) = codec.decode(av.Packet(bytes(range(256))))
    assert np.array_equal(table * 32768, frame.to_ndarray().reshape(-1).astype(np.float32))


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_opus_packets_decode_to_what_was_encoded(layout: str) -> None:
    original = sine(0.6)
    decoder = Opus()
    decoded = [decoder.decode(packet) for packet in opus_packets(original, layout)]
    assert all(part.dtype == np.float32 and part.ndim == 1 for part in decoded)
    assert all(len(part) <= PACKET_SAMPLES for part in decoded)
    whole = np.concatenate(decoded)
    assert abs(len(whole) - len(original)) <= 2 * PACKET_SAMPLES
    assert likeness(original, whole) > 0.99


def test_a_bad_opus_packet_is_refused_and_the_next_ones_are_decoded() -> None:
    original = sine(0.6)
    decoder, decoded = Opus(), []
    for i, packet in enumerate(opus_packets(original)):
        if i % 5 == 2:
            for junk in (b"\xff\xff\xff\xff", b"\x03", b"\xff" * 300):
                with pytest.raises(BadAudio):
                    decoder.decode(junk)
        decoded.append(decoder.decode(packet))
    assert likeness(original, np.concatenate(decoded)) > 0.95


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_opus_or_bad_audio(packet: bytes) -> None:
    decoder = decoder_for("opus")
    try:
        samples = decoder.decode(packet)
    except BadAudio:
        return
    assert np.isfinite(samples).all()


def test_no_other_encoding_is_made_up() -> None:
    with pytest.raises(ValueError, match="mp3"):
        decoder_for("mp3")
