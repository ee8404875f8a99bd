import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxtral_worker.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.errors import BadAudio


def pcm(seconds: float, rate: int) -> bytes:
    noise = np.random.default_rng(7).normal(0, 3000, int(seconds * rate))
    return noise.clip(-32768, 32767).astype("<i2").tobytes()


def frames_of(stream: AudioStream, chunks: list[bytes]) -> NDArray[np.float32]:
    return np.concatenate([stream.push(chunk) for chunk in chunks])


def cut(data: bytes, cuts: list[int], step: int) -> list[bytes]:
    ends = [0, *sorted(c * step for c in cuts if 0 < c * step < len(data)), len(data)]
    pieces = [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize(
    ("encoding", "rate", "step"),
    [("pcm_s16le", 16_000, 2), ("pcm_s16le", 44_100, 2), ("mulaw", 8000, 1), ("alaw", 16_000, 1)],
)
@given(cuts=st.lists(st.integers(1, 20_000), max_size=12))
@settings(max_examples=25, deadline=None)
def test_frames_do_not_depend_on_how_the_bytes_were_chunked(
    encoding: str, rate: int, step: int, cuts: list[int]
) -> None:
    data = pcm(0.4, rate)
    whole = frames_of(AudioStream(encoding, rate), [data])
    pieces = frames_of(AudioStream(encoding, rate), cut(data, cuts, step))
    # A resampler may hold back a little more or less at the end.
    both = min(len(whole), len(pieces))
    assert abs(len(whole) - len(pieces)) <= (0 if rate == SAMPLE_RATE else 1)
    assert np.allclose(whole[:both], pieces[:both], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_a_resampled_stream_is_the_whole_resampled(rate: int) -> None:
    data = pcm(1.5, rate)
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    whole = soxr.resample(samples, rate, SAMPLE_RATE)
    chunks = [data[i : i + 1280] for i in range(0, len(data), 1280)]
    streamed = frames_of(AudioStream("pcm_s16le", rate), chunks).reshape(-1)
    assert len(whole) - len(streamed) < 6 * FRAME_SAMPLES
    both = min(len(whole), len(streamed))
    assert np.abs(whole[500 : both - 500] - streamed[500 : both - 500]).max() < 1e-3


def test_16_khz_audio_is_not_resampled() -> None:
    data = pcm(0.5, SAMPLE_RATE)
    frames = AudioStream("pcm_s16le", SAMPLE_RATE).push(data)
    samples = np.frombuffer(data, "<i2")[: frames.size]
    assert frames.shape == (15, FRAME_SAMPLES)
    assert np.array_equal(frames.reshape(-1) * 32768, samples)


def test_a_bad_chunk_is_refused_and_the_stream_goes_on_without_it() -> None:
    data = pcm(0.5, SAMPLE_RATE)
    stream = AudioStream("pcm_s16le", SAMPLE_RATE)
    first = stream.push(data[:3000])
    with pytest.raises(BadAudio):
        stream.push(b"odd")
    frames = np.concatenate([first, stream.push(data[3000:])])
    assert np.array_equal(frames, AudioStream("pcm_s16le", SAMPLE_RATE).push(data))


def test_opus_is_decoded_at_its_own_rate_whatever_the_session_says() -> None:
    silent_packet = b"\xf8\xff\xfe"
    stream = AudioStream("opus", 8000)
    frames = frames_of(stream, [silent_packet] * 100)
    assert 50 <= len(frames) <= 2 * SAMPLE_RATE // FRAME_SAMPLES
    assert np.abs(frames).max() < 1e-3


@pytest.mark.parametrize(
    ("encoding", "rate", "size"),
    [("pcm_s16le", 24_000, 2), ("pcm_s16le", 16_000, 2), ("alaw", 8_000, 1)],
)
def test_the_last_frames_hold_all_that_was_pushed(encoding: str, rate: int, size: int) -> None:
    stream = AudioStream(encoding, rate)
    whole = np.concatenate([stream.push(pcm(0.51, rate)[: int(0.51 * rate) * size])])
    last = stream.finish()
    samples = np.concatenate([whole, last]).reshape(-1)
    expected = 0.51 * SAMPLE_RATE
    assert expected - 2 <= len(samples) < expected + FRAME_SAMPLES + 2
    assert not AudioStream("pcm_s16le", SAMPLE_RATE).finish().size


@pytest.mark.parametrize("encoding", ["pcm_s16le", "mulaw", "alaw", "opus"])
def test_an_empty_chunk_changes_nothing(encoding: str) -> None:
    data = [bytes.fromhex("f8fffe")] * 25 if encoding == "opus" else [pcm(0.5, SAMPLE_RATE)]
    heard = []
    for gap in ([], [b""]):
        stream = AudioStream(encoding, SAMPLE_RATE)
        chunks = [chunk for packet in data for chunk in (*gap, packet)]
        heard.append(np.concatenate([stream.push(chunk) for chunk in chunks]))
    assert len(heard[0]) > 5
    assert np.array_equal(heard[0], heard[1])


@pytest.mark.parametrize(("encoding", "rate"), [("pcm_s16le", 24_000), ("mulaw", 8000)])
def test_what_was_resampled_is_in_steps_of_16_bits(encoding: str, rate: int) -> None:
    loud = np.random.default_rng(2).integers(0, 256, rate * 2).astype(np.uint8).tobytes()
    stream = AudioStream(encoding, rate)
    samples = np.concatenate([stream.push(loud), stream.finish()]).reshape(-1)
    steps = samples * 32_768
    assert samples.dtype == np.float32
    assert np.array_equal(steps, np.rint(steps))
    assert steps.min() >= -32_768
    assert steps.max() <= 32_767
    assert not np.signbit(samples[samples == 0]).any()
