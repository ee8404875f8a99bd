from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.turns.detector import (
    HYSTERESIS,
    MIN_SPEECH_FRAMES,
    ONSET_DIP_FRAMES,
    PRE_ROLL_FRAMES,
    THRESHOLDS,
    TurnDetector,
)
from voxtral_worker.turns.endpoint import TAIL_FRAMES
from voxtral_worker.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEnded,
    TurnEvent,
)
from voxtral_worker.turns.speech_meter import CUT_SEARCH_FRAMES, QUIET_FRAMES

# 500 ms are 15.6 frames, so a pause of 16 frames ends a turn and one of 15 does not.
ENDPOINT_FRAMES = 16


def hear(
    detector: TurnDetector, probabilities: Iterable[float], energy: float = 1.0
) -> list[TurnEvent]:
    return [event for p in probabilities for event in detector.hear(p, energy)]


def speech(frames: int) -> list[float]:
    return [0.9] * frames


def silence(frames: int) -> list[float]:
    return [0.0] * frames


def test_silence_starts_no_turn() -> None:
    detector = TurnDetector()
    assert hear(detector, silence(1000)) == []
    assert not detector.is_open
    assert detector.frames_heard == 1000


def test_a_turn_is_its_speech_with_a_pre_roll_and_a_tail() -> None:
    events = hear(TurnDetector(), silence(50) + speech(30) + silence(50))
    assert events == [
        SpeechStarted(50 - PRE_ROLL_FRAMES),
        SpeechPaused(50 - PRE_ROLL_FRAMES, 80 + TAIL_FRAMES),
        TurnEnded(50 - PRE_ROLL_FRAMES, 80 + TAIL_FRAMES, 79, 30, "silence"),
    ]


def test_a_turn_starts_with_the_least_speech_and_not_with_less() -> None:
    detector = TurnDetector()
    assert hear(detector, speech(MIN_SPEECH_FRAMES - 1) + silence(20)) == []
    hear(detector, speech(MIN_SPEECH_FRAMES - 1))
    assert not detector.is_open
    assert detector.hear(0.9, 1.0) == (SpeechStarted(20 + MIN_SPEECH_FRAMES - 1 - PRE_ROLL_FRAMES),)
    assert detector.is_open


def test_an_onset_may_dip_for_a_moment_and_is_forgotten_after_a_longer_one() -> None:
    detector = TurnDetector()
    assert hear(detector, speech(3) + silence(ONSET_DIP_FRAMES) + speech(1)) == [SpeechStarted(0)]
    detector = TurnDetector()
    assert hear(detector, speech(3) + silence(ONSET_DIP_FRAMES + 1) + speech(3)) == []


def test_a_pause_shorter_than_the_endpoint_keeps_the_turn_open() -> None:
    detector = TurnDetector()
    hear(detector, speech(10))
    events = hear(detector, silence(ENDPOINT_FRAMES - 1) + speech(1))
    assert events == [SpeechPaused(0, 10 + TAIL_FRAMES), SpeechResumed()]
    assert detector.is_open


def test_a_pause_as_long_as_the_endpoint_ends_the_turn() -> None:
    detector = TurnDetector()
    hear(detector, speech(10))
    events = hear(detector, silence(ENDPOINT_FRAMES))
    assert events[-1] == TurnEnded(0, 10 + TAIL_FRAMES, 9, 10, "silence")
    assert not detector.is_open


def test_a_dip_shorter_than_the_tail_is_no_pause() -> None:
    detector = TurnDetector()
    hear(detector, speech(10))
    assert hear(detector, silence(TAIL_FRAMES - 1) + speech(5)) == []


def test_the_same_audio_ends_the_turn_at_the_same_frame_however_long_the_silence() -> None:
    ends = []
    for silence_ms in (200, 500, 1000, 3000):
        ended = hear(TurnDetector(silence_ms=silence_ms), speech(20) + silence(200))[-1]
        assert isinstance(ended, TurnEnded)
        ends.append(ended.end_frame)
    assert ends == [20 + TAIL_FRAMES] * 4


def test_an_endpoint_shorter_than_the_tail_shortens_the_tail() -> None:
    events = hear(TurnDetector(silence_ms=100), speech(20) + silence(4))
    assert events[1:] == [SpeechPaused(0, 24), TurnEnded(0, 24, 19, 20, "silence")]


def test_a_turn_that_is_too_long_is_cut_at_its_quietest_place_and_the_rest_is_the_next() -> None:
    detector = TurnDetector(max_turn_frames=100)
    events = hear(detector, speech(70)) + hear(detector, speech(4), 0.1)
    events += hear(detector, speech(26))
    assert events == [
        SpeechStarted(0),
        TurnEnded(0, 72, 71, 72, "too_long"),
        SpeechStarted(72, goes_on=True),
    ]
    assert detector.is_open
    assert detector.oldest_needed_frame == 72
    assert hear(detector, silence(ENDPOINT_FRAMES))[-1] == TurnEnded(72, 105, 99, 28, "silence")


def test_of_places_that_are_equally_quiet_a_turn_is_cut_at_the_latest() -> None:
    events = hear(TurnDetector(max_turn_frames=100), speech(100))
    assert events[1:] == [
        TurnEnded(0, 100 - QUIET_FRAMES // 2, 97, 98, "too_long"),
        SpeechStarted(98, goes_on=True),
    ]


def test_a_turn_is_cut_within_its_last_seconds_and_in_its_second_half() -> None:
    for longest, searched in ((1000, CUT_SEARCH_FRAMES), (100, 50)):
        detector = TurnDetector(max_turn_frames=longest)
        hear(detector, speech(longest - searched), 0.0)
        ended = hear(detector, speech(searched))[0]
        assert isinstance(ended, TurnEnded)
        assert ended.end_frame > longest - searched


def test_a_click_shorter_than_the_quiet_place_does_not_hide_it() -> None:
    detector = TurnDetector(max_turn_frames=100)
    hear(detector, speech(60))
    # One silent frame inside a word, and a longer place that is merely quiet.
    hear(detector, speech(1), 0.0)
    hear(detector, speech(20))
    hear(detector, speech(4), 0.2)
    ended = hear(detector, speech(15))[0]
    assert isinstance(ended, TurnEnded)
    assert ended.end_frame == 83


def test_a_turn_that_is_too_long_in_a_pause_ends_with_it_and_speech_in_time_goes_on() -> None:
    detector = TurnDetector(max_turn_frames=100)
    events = hear(detector, speech(92)) + hear(detector, silence(8), 0.1)
    assert events[-2:] == [SpeechPaused(0, 97), TurnEnded(0, 97, 91, 92, "too_long")]
    assert not detector.is_open
    assert detector.goes_on
    # A little below the threshold, as within a turn.
    assert hear(detector, [0.4]) == [SpeechStarted(97, goes_on=True)]
    assert hear(detector, silence(ENDPOINT_FRAMES))[-1] == TurnEnded(97, 106, 100, 1, "silence")


def test_speech_long_after_a_turn_that_was_too_long_is_a_turn_of_its_own() -> None:
    detector = TurnDetector(max_turn_frames=100)
    hear(detector, speech(92) + silence(ENDPOINT_FRAMES))
    assert not detector.goes_on
    assert hear(detector, silence(10) + speech(4)) == [SpeechStarted(108)]


def test_nothing_is_open_between_a_turn_that_was_too_long_and_the_speech_behind_it() -> None:
    detector = TurnDetector(max_turn_frames=100)
    hear(detector, speech(92) + silence(8))
    assert detector.end_turn("stalled") == ()
    assert not detector.goes_on
    assert hear(detector, speech(4)) == [SpeechStarted(97)]


def test_the_pause_in_which_a_turn_is_cut_further_up_belongs_to_the_next_turn() -> None:
    detector = TurnDetector(max_turn_frames=100)
    hear(detector, speech(70))
    hear(detector, speech(4), 0.1)
    hear(detector, speech(18))
    assert hear(detector, silence(8)) == [
        SpeechPaused(0, 97),
        TurnEnded(0, 72, 71, 72, "too_long"),
        SpeechStarted(72, goes_on=True),
        SpeechPaused(72, 97),
    ]
    assert hear(detector, speech(1)) == [SpeechResumed()]


def test_a_pre_roll_takes_at_most_half_of_the_longest_turn() -> None:
    detector = TurnDetector(max_turn_frames=40)
    detector.reconfigure(2, 500, pre_roll_ms=5000)
    assert hear(detector, silence(100) + speech(4)) == [SpeechStarted(80)]
    assert isinstance(hear(detector, speech(16))[0], TurnEnded)


def test_speech_after_a_turn_does_not_reach_back_into_it() -> None:
    events = hear(TurnDetector(silence_ms=100), speech(20) + silence(5) + speech(4))
    assert events[-1] == SpeechStarted(24)


def test_ending_a_turn_by_hand_needs_no_silence() -> None:
    detector = TurnDetector()
    hear(detector, silence(20) + speech(10))
    assert detector.end_turn() == (TurnEnded(10, 30, 29, 10, "end_turn"),)
    assert detector.end_turn() == ()


def test_ending_before_enough_speech_still_says_that_there_was_some() -> None:
    detector = TurnDetector()
    hear(detector, speech(2))
    assert detector.end_turn("stalled") == (TurnEnded(0, 2, 1, 2, "stalled"),)
    assert not detector.is_open


@pytest.mark.parametrize("sensitivity", THRESHOLDS)
def test_speech_goes_on_a_little_below_the_threshold_that_starts_it(sensitivity: int) -> None:
    threshold = THRESHOLDS[sensitivity]
    below = [threshold - 0.01] * 50
    assert hear(TurnDetector(sensitivity), below) == []
    detector = TurnDetector(sensitivity)
    hear(detector, [threshold] * MIN_SPEECH_FRAMES)
    assert hear(detector, below) == []
    assert detector.is_open
    assert hear(detector, [threshold - HYSTERESIS - 0.01] * ENDPOINT_FRAMES)


def test_a_more_sensitive_detector_hears_quieter_speech() -> None:
    heard = [bool(hear(TurnDetector(level), [0.6] * 20)) for level in (0, 1, 2, 3)]
    assert heard == [False, False, True, True]


def test_a_threshold_and_a_pre_roll_of_ones_own_go_before_the_sensitivity() -> None:
    detector = TurnDetector(sensitivity=3)
    detector.reconfigure(3, 500, threshold=0.7, pre_roll_ms=64)
    assert hear(detector, [0.6] * 30) == []
    assert hear(detector, speech(MIN_SPEECH_FRAMES)) == [SpeechStarted(28)]
    assert detector.oldest_needed_frame == 28


def test_a_new_config_leaves_an_open_turn_open() -> None:
    detector = TurnDetector(2, 500)
    hear(detector, speech(10) + silence(10))
    detector.reconfigure(0, 1000)
    assert detector.is_open
    assert hear(detector, silence(21)) == []
    assert hear(detector, silence(1)) == [TurnEnded(0, 15, 9, 10, "silence")]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("speech"), st.integers(1, 40)),
        st.tuples(st.just("silence"), st.integers(1, 40)),
        st.tuples(st.just("unclear"), st.integers(1, 10)),
        st.tuples(st.just("end_turn"), st.just(0)),
        st.tuples(st.just("reconfigure"), st.integers(0, 3)),
    ),
    max_size=25,
)


sounds = st.lists(
    st.tuples(
        st.sampled_from([0.9, 0.9, 0.9, 0.55, 0.45, 0.0, 0.0]),
        st.integers(1, 60),
        st.sampled_from([0.0, 0.1, 1.0, 1.0]),
    ),
    max_size=30,
)


def turns_of(detector: TurnDetector, sound: list[tuple[float, float]]) -> list[TurnEnded]:
    events = [event for p, energy in sound for event in detector.hear(p, energy)]
    events += detector.end_turn()
    return [event for event in events if isinstance(event, TurnEnded)]


@given(sounds, st.sampled_from([24, 40, 63, 400]), st.sampled_from([100, 500, 3000]))
@settings(max_examples=300, deadline=None)
def test_what_a_longest_turn_cuts_is_all_there_once_and_in_order(
    stretches: list[tuple[float, int, float]], max_turn_frames: int, silence_ms: int
) -> None:
    sound = [(p, energy) for p, frames, energy in stretches for _ in range(frames)]
    whole = turns_of(TurnDetector(silence_ms=silence_ms), sound)
    cut = turns_of(TurnDetector(silence_ms=silence_ms, max_turn_frames=max_turn_frames), sound)
    over_frame = 0
    heard: set[int] = set()
    for turn in cut:
        assert over_frame <= turn.first_frame <= turn.last_speech_frame < turn.end_frame
        assert turn.end_frame - turn.first_frame <= max_turn_frames
        assert turn.speech_frames > 0
        over_frame = turn.end_frame
        heard.update(range(turn.first_frame, turn.end_frame))
    spoken = {
        frame
        for turn in whole
        for frame in range(turn.first_frame, turn.last_speech_frame + 1)
        if sound[frame][0] >= THRESHOLDS[2]
    }
    assert spoken <= heard
    # Speech that counts only because it continues is there as well.
    assert sum(turn.speech_frames for turn in cut) == sum(turn.speech_frames for turn in whole)


@given(actions, st.sampled_from([40, 9375]))
@settings(max_examples=100, deadline=None)
def test_turns_never_overlap_and_each_start_has_one_end(
    done: list[tuple[str, int]], max_turn_frames: int
) -> None:
    detector = TurnDetector(max_turn_frames=max_turn_frames)
    started: int | None = None
    over_frame = 0
    for action, amount in [*done, ("end_turn", 0)]:
        events: list[TurnEvent] = []
        needed = detector.oldest_needed_frame
        match action:
            case "end_turn":
                events = list(detector.end_turn())
            case "reconfigure":
                detector.reconfigure(amount, 100 + 700 * amount)
            case _:
                level = {"speech": 0.9, "silence": 0.0, "unclear": 0.45}[action]
                events = hear(detector, [level] * amount)
        assert needed <= detector.oldest_needed_frame <= detector.frames_heard
        for event in events:
            if isinstance(event, SpeechStarted):
                assert started is None
                assert event.first_frame >= max(over_frame, needed)
                started = event.first_frame
            elif isinstance(event, TurnEnded):
                assert event.first_frame >= max(over_frame, needed)
                assert event.first_frame <= event.last_speech_frame < event.end_frame
                assert event.end_frame <= detector.frames_heard
                assert event.end_frame - event.first_frame <= max_turn_frames
                assert started == event.first_frame or event.reason == "end_turn"
                started, over_frame = None, event.end_frame
        assert detector.is_open == (started is not None)
    assert started is None


@given(actions)
@settings(max_examples=60, deadline=None)
def test_a_recording_heard_again_gives_the_same_turns(done: list[tuple[str, int]]) -> None:
    levels = {"speech": 0.9, "silence": 0.0, "unclear": 0.45}
    sound = [levels[action] for action, n in done for _ in range(n) if action in levels]
    assert hear(TurnDetector(), sound) == hear(TurnDetector(), sound)
