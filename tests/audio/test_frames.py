import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.audio.frames import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE, Framer


@given(st.lists(st.integers(0, 1500), max_size=12))
@settings(max_examples=80, deadline=None)
def test_frames_do_not_depend_on_how_the_samples_were_cut(cuts: list[int]) -> None:
    samples = np.arange(sum(cuts), dtype=np.float32)
    framer = Framer()
    pieces = np.split(samples, np.cumsum(cuts)[:-1]) if cuts else []
    frames = [framer.push(piece) for piece in pieces]
    assert all(frame.shape[1] == FRAME_SAMPLES for frame in frames)
    whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
    joined = np.concatenate([frame.reshape(-1) for frame in frames]) if frames else samples
    assert np.array_equal(joined, samples[:whole])


def test_a_frame_is_32_ms_of_16_khz() -> None:
    assert FRAME_SAMPLES * 1000 == FRAME_MS * SAMPLE_RATE
