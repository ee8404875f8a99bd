import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.turns.endpoint import (
    SCORE_DUE_FRAMES,
    SCORED_SPEECH_FRAMES,
    TAIL_FRAMES,
    Endpoint,
    Waits,
)
from voxtral_worker.turns.events import SpeechPaused
from voxtral_worker.turns.speech_meter import SpeechMeter

WAITS = Waits(surely=8, seemingly=18, hardly=30, unknown=17)
# 500 ms are 15.6 frames.
SILENCE_FRAMES = 16


def heard(speech_frames: int = SCORED_SPEECH_FRAMES, noise: float = 0.0) -> SpeechMeter:
    """A turn of this much speech, and the tail of silence after it."""
    meter = SpeechMeter(9375)
    meter.begin(may_reopen=False)
    for _ in range(speech_frames):
        meter.add(1.0, is_speech=True)
    for _ in range(TAIL_FRAMES):
        meter.add(noise, is_speech=False)
    return meter


def paused(waits: Waits | None, meter: SpeechMeter) -> tuple[Endpoint, SpeechPaused]:
    endpoint = Endpoint(500)
    endpoint.configure(500, waits)
    return endpoint, endpoint.begin_pause(0, meter.frames, meter)


def test_without_waits_every_pause_needs_the_same_silence_and_no_score() -> None:
    endpoint, pause = paused(None, heard())
    assert not pause.is_scored
    assert not endpoint.needs_score(100)
    assert (endpoint.needed_frames, endpoint.reason) == (SILENCE_FRAMES, "silence")


@pytest.mark.parametrize(
    ("score", "frames", "reason"),
    [(0.9, 8, "semantic"), (0.6, 18, "silence"), (0.1, 30, "silence"), (None, 17, "silence")],
)
def test_a_score_sets_the_silence_of_its_pause_alone(
    score: float | None, frames: int, reason: str
) -> None:
    meter = heard()
    endpoint, pause = paused(WAITS, meter)
    assert endpoint.take_score(pause, score)
    assert (endpoint.needed_frames, endpoint.reason) == (frames, reason)
    endpoint.end_pause()
    assert endpoint.needed_frames == WAITS.unknown
    assert not endpoint.take_score(pause, 0.9), "the pause is over"


def test_a_second_score_changes_nothing() -> None:
    endpoint, pause = paused(WAITS, heard())
    endpoint.take_score(pause, 0.1)
    assert not endpoint.take_score(pause, 0.9)
    assert endpoint.needed_frames == WAITS.hardly


@given(st.integers(0, 40), st.sampled_from([None, 0.1, 0.6, 0.9]))
def test_it_makes_no_difference_when_a_score_comes(came_after: int, score: float | None) -> None:
    """The score comes after so many frames of the pause, or when the next frame waits for it."""
    endpoint, pause = paused(WAITS, heard())
    silence = TAIL_FRAMES
    is_known = False
    while silence < endpoint.needed_frames:
        if not is_known and (silence - TAIL_FRAMES >= came_after or endpoint.needs_score(silence)):
            is_known = endpoint.take_score(pause, score)
        silence += 1
    assert silence == WAITS.after(score)


@pytest.mark.parametrize(
    ("speech_frames", "noise", "is_scored"),
    [
        (SCORED_SPEECH_FRAMES, 0.0, True),
        (SCORED_SPEECH_FRAMES, 0.01, True),
        (SCORED_SPEECH_FRAMES, 0.02, False),
        (SCORED_SPEECH_FRAMES - 1, 0.0, False),
    ],
)
def test_only_a_quiet_pause_after_enough_speech_is_scored(
    speech_frames: int, noise: float, is_scored: bool
) -> None:
    endpoint, pause = paused(WAITS, heard(speech_frames, noise))
    assert pause.is_scored == is_scored
    assert endpoint.needs_score(SCORE_DUE_FRAMES) == is_scored
    assert not endpoint.needs_score(SCORE_DUE_FRAMES - 2)
