"""Turns that open again, that need more speech to interrupt, and whose pauses are scored."""

import dataclasses
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.turns.detector import MIN_SPEECH_FRAMES, ONSET_DIP_FRAMES, TurnDetector
from voxtral_worker.turns.endpoint import SCORE_DUE_FRAMES, SCORED_SPEECH_FRAMES, TAIL_FRAMES, Waits
from voxtral_worker.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnEnded,
    TurnEvent,
    TurnReopened,
)

# 500 ms of silence are 16 frames, and 800 ms 25.
SILENCE_FRAMES = 16
REOPEN_FRAMES = 25
LONG_ENOUGH = SCORED_SPEECH_FRAMES + 8


def detector(
    reopen_ms: int = 800,
    *,
    silence_ms: int = 500,
    eagerness: str | None = None,
    max_turn_frames: int = 9375,
) -> TurnDetector:
    made = TurnDetector(max_turn_frames=max_turn_frames)
    waits = None if eagerness is None else Waits.of(eagerness, silence_ms)
    made.reconfigure(2, silence_ms, reopen_ms=reopen_ms, waits=waits)
    return made


def hear(listener: TurnDetector, *stretches: tuple[float, int]) -> list[TurnEvent]:
    """Stretches of one speech probability and so many frames; speech is loud, the rest is not."""
    return [
        event
        for probability, frames in stretches
        for _ in range(frames)
        for event in listener.hear(probability, probability**4)
    ]


def speech(frames: int) -> tuple[float, int]:
    return (0.9, frames)


def silence(frames: int) -> tuple[float, int]:
    return (0.0, frames)


def ended(first: int, last_speech: int, spoken: int, reason: str = "silence") -> TurnEnded:
    return TurnEnded(first, last_speech + 1 + TAIL_FRAMES, last_speech, spoken, reason)


# Reopening.


def test_speech_soon_after_the_end_of_a_turn_opens_it_again_as_one_piece() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES + 5))
    assert not listener.is_open
    assert listener.is_reopenable
    assert hear(listener, speech(MIN_SPEECH_FRAMES)) == [TurnReopened(0)]
    assert listener.is_open
    events = hear(listener, speech(6), silence(SILENCE_FRAMES))
    assert events == [SpeechPaused(0, 51 + TAIL_FRAMES), ended(0, 50, 30)]


@pytest.mark.parametrize(("gap", "reopens"), [(0, True), (24, True), (25, False)])
def test_speech_counts_as_more_of_the_turn_until_the_time_is_over(gap: int, reopens: bool) -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES + gap))
    (event,) = hear(listener, speech(MIN_SPEECH_FRAMES))
    assert isinstance(event, TurnReopened) == reopens
    assert isinstance(event, SpeechStarted) != reopens


def test_what_counts_is_when_speech_begins_and_not_when_it_is_surely_speech() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES + REOPEN_FRAMES - 1))
    assert hear(listener, speech(1), silence(ONSET_DIP_FRAMES), speech(3)) == [TurnReopened(0)]


def test_a_click_opens_nothing_again() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES))
    assert hear(listener, speech(MIN_SPEECH_FRAMES - 1), silence(REOPEN_FRAMES)) == []
    assert not listener.is_reopenable


def test_an_onset_that_was_none_leaves_the_time_that_is_left() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES), speech(2), silence(4))
    assert hear(listener, speech(MIN_SPEECH_FRAMES)) == [TurnReopened(0)]


def test_a_turn_opens_again_as_often_as_it_goes_on() -> None:
    listener = detector()
    for _ in range(3):
        hear(listener, speech(10), silence(SILENCE_FRAMES + 2))
    last = hear(listener, speech(10), silence(SILENCE_FRAMES))[-1]
    assert last == ended(0, 93, 40)


def test_without_time_to_reopen_every_turn_stays_ended() -> None:
    listener = detector(0)
    hear(listener, speech(20), silence(SILENCE_FRAMES))
    assert not listener.is_reopenable
    assert hear(listener, speech(MIN_SPEECH_FRAMES)) == [SpeechStarted(26)]


@pytest.mark.parametrize("how", ["end_turn", "stalled"])
def test_a_turn_that_somebody_ended_stays_ended(how: str) -> None:
    listener = detector()
    hear(listener, speech(20))
    listener.end_turn(how)
    assert not listener.is_reopenable
    assert isinstance(hear(listener, speech(MIN_SPEECH_FRAMES))[0], SpeechStarted)


def test_ending_what_has_ended_closes_it() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES))
    assert listener.goes_on
    assert listener.end_turn() == ()
    assert not listener.goes_on


def test_a_turn_that_is_closed_does_not_open_even_when_speech_has_begun() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES + 10), speech(2))
    listener.close()
    assert hear(listener, speech(2)) == [SpeechStarted(36)]


def test_a_turn_that_was_cut_for_its_length_does_not_open_again() -> None:
    listener = detector(max_turn_frames=100)
    hear(listener, speech(92), silence(8))
    assert not listener.is_reopenable


def test_a_turn_that_could_become_too_long_does_not_open_again() -> None:
    listener = detector(max_turn_frames=100)
    hear(listener, speech(60), silence(SILENCE_FRAMES))
    assert not listener.is_reopenable


def test_a_turn_that_gets_too_long_after_it_opened_again_is_cut() -> None:
    listener = detector(max_turn_frames=100)
    hear(listener, speech(30), silence(SILENCE_FRAMES + 2))
    events = hear(listener, speech(52))
    assert events == [
        TurnReopened(0),
        TurnEnded(0, 98, 97, 80, "too_long"),
        SpeechStarted(98, goes_on=True),
    ]


def test_frames_are_kept_from_the_end_of_a_turn_that_may_open_again() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES + 20))
    assert listener.oldest_needed_frame == 20 + TAIL_FRAMES
    hear(listener, speech(1))
    assert listener.oldest_needed_frame == 20 + TAIL_FRAMES
    hear(listener, speech(MIN_SPEECH_FRAMES - 1))
    assert listener.oldest_needed_frame == 0


sounds = st.lists(st.tuples(st.integers(4, 60), st.integers(1, 90)), min_size=1, max_size=20)


def final_turns(listener: TurnDetector, stretches: Iterable[tuple[float, int]]) -> list[TurnEnded]:
    """The turns of a recording, each as it was when it ended for the last time."""
    turns: list[TurnEnded] = []
    for event in [*hear(listener, *stretches), *listener.end_turn()]:
        if isinstance(event, TurnReopened):
            assert turns.pop().first_frame == event.first_frame
        elif isinstance(event, TurnEnded):
            turns.append(event)
    return turns


@given(sounds, st.sampled_from([160, 320, 500]), st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_in_the_end_turns_are_those_that_a_longer_silence_would_have_found(
    said: list[tuple[int, int]], silence_ms: int, reopen_ms: int
) -> None:
    sound = [stretch for spoken, still in said for stretch in (speech(spoken), silence(still))]
    silent_frames = -(-silence_ms // 32) + -(-reopen_ms // 32)
    early = final_turns(detector(reopen_ms, silence_ms=silence_ms), sound)
    late = final_turns(detector(0, silence_ms=silent_frames * 32), sound)

    def bare(turns: list[TurnEnded]) -> list[TurnEnded]:
        return [dataclasses.replace(turn, reason="") for turn in turns]

    assert bare(early) == bare(late)


# How much speech interrupts.


def test_speech_that_is_too_short_to_interrupt_is_no_turn() -> None:
    listener = detector()
    listener.least_speech_frames = 10
    assert hear(listener, silence(20), speech(9), silence(40)) == []


def test_of_speech_that_interrupts_nothing_is_lost() -> None:
    listener = detector()
    listener.least_speech_frames = 10
    hear(listener, silence(20), speech(6), silence(TAIL_FRAMES), speech(3))
    assert listener.oldest_needed_frame == 10
    assert hear(listener, speech(1)) == [SpeechStarted(10)]


def test_speech_is_speech_at_once_when_there_is_nothing_left_to_interrupt() -> None:
    listener = detector()
    listener.least_speech_frames = 30
    assert hear(listener, silence(20), speech(9)) == []
    listener.least_speech_frames = MIN_SPEECH_FRAMES
    assert hear(listener, speech(1)) == [SpeechStarted(10)]


def test_more_of_a_turn_need_not_be_long_to_belong_to_it() -> None:
    listener = detector()
    hear(listener, speech(20), silence(SILENCE_FRAMES))
    listener.least_speech_frames = 30
    assert hear(listener, speech(MIN_SPEECH_FRAMES)) == [TurnReopened(0)]


def test_who_ends_the_turn_has_said_what_was_too_short_to_interrupt() -> None:
    listener = detector()
    listener.least_speech_frames = 30
    hear(listener, silence(20), speech(9))
    assert listener.end_turn() == (SpeechStarted(10), TurnEnded(10, 29, 28, 9, "end_turn"))


# Pauses that are scored.


@pytest.mark.parametrize(
    ("eagerness", "waits"),
    [
        ("low", Waits(16, 25, 50, 25)),
        ("medium", Waits(7, 18, 30, 17)),
        ("high", Waits(7, 11, 20, 13)),
    ],
)
def test_the_silence_that_is_needed_follows_the_score(eagerness: str, waits: Waits) -> None:
    assert Waits.of(eagerness, 500) == waits
    for score, frames in (
        (1.0, waits.surely),
        (0.85, waits.surely),
        (0.84, waits.seemingly),
        (0.5, waits.seemingly),
        (0.49, waits.hardly),
        (0.0, waits.hardly),
        (None, waits.unknown),
    ):
        listener = detector(eagerness=eagerness)
        (_, pause) = hear(listener, speech(LONG_ENOUGH), silence(TAIL_FRAMES))
        assert pause == SpeechPaused(0, LONG_ENOUGH + TAIL_FRAMES, is_scored=True)
        listener.score(pause, score)
        assert hear(listener, silence(frames - TAIL_FRAMES - 1)) == []
        reason = "semantic" if frames < waits.unknown else "silence"
        assert hear(listener, silence(1)) == [
            TurnEnded(0, LONG_ENOUGH + TAIL_FRAMES, LONG_ENOUGH - 1, LONG_ENOUGH, reason, score)
        ]


def test_waits_follow_the_silence_that_was_asked_for_but_leave_time_for_a_score() -> None:
    assert Waits.of("medium", 1000) == Waits(14, 36, 60, 34)
    assert Waits.of("medium", 100) == Waits(7, 7, 7, 4)


def test_the_frame_that_could_end_the_turn_waits_for_the_score() -> None:
    listener = detector(eagerness="high")
    hear(listener, speech(LONG_ENOUGH), silence(TAIL_FRAMES))
    assert not listener.needs_score
    hear(listener, silence(SCORE_DUE_FRAMES - 1 - TAIL_FRAMES))
    assert listener.needs_score
    pause = SpeechPaused(0, LONG_ENOUGH + TAIL_FRAMES, is_scored=True)
    listener.score(pause, 0.95)
    assert not listener.needs_score
    assert isinstance(hear(listener, silence(1))[0], TurnEnded)


def test_a_score_counts_once_and_for_its_own_pause() -> None:
    listener = detector(eagerness="medium")
    (_, first) = hear(listener, speech(LONG_ENOUGH), silence(TAIL_FRAMES))
    assert hear(listener, speech(2)) == [SpeechResumed()]
    (second,) = hear(listener, silence(TAIL_FRAMES))
    assert isinstance(first, SpeechPaused) and isinstance(second, SpeechPaused)
    listener.score(first, 1.0)
    hear(listener, silence(1))
    assert listener.needs_score
    listener.score(second, 0.7)
    listener.score(second, 1.0)
    assert hear(listener, silence(11)) == []
    assert hear(listener, silence(1))[0].completeness == 0.7  # type: ignore[union-attr]


def test_a_pause_in_which_speech_goes_on_before_its_score_is_told_is_forgotten() -> None:
    listener = detector(eagerness="medium")
    hear(listener, speech(LONG_ENOUGH), silence(TAIL_FRAMES), speech(40))
    assert not listener.needs_score


@pytest.mark.parametrize("silence_ms", [100, 500])
def test_a_score_that_nobody_tells_counts_as_unknown(silence_ms: int) -> None:
    listener = detector(eagerness="medium", silence_ms=silence_ms)
    events = hear(listener, speech(LONG_ENOUGH), silence(20))
    assert isinstance(events[-1], TurnEnded)
    assert events[-1].completeness is None
    assert events[-1].reason == "silence"


def test_less_than_a_second_of_speech_is_not_scored() -> None:
    for spoken, is_scored in ((SCORED_SPEECH_FRAMES - 1, False), (SCORED_SPEECH_FRAMES, True)):
        listener = detector(eagerness="medium")
        (_, pause) = hear(listener, speech(spoken), silence(TAIL_FRAMES))
        assert isinstance(pause, SpeechPaused)
        assert pause.is_scored == is_scored


@pytest.mark.parametrize(("noise", "is_scored"), [(0.0099, True), (0.0101, False)])
def test_a_pause_that_is_not_much_quieter_than_the_speech_is_not_scored(
    noise: float, is_scored: bool
) -> None:
    listener = detector(eagerness="medium")
    events = [e for _ in range(LONG_ENOUGH) for e in listener.hear(0.9, 1.0)]
    events += [e for _ in range(TAIL_FRAMES) for e in listener.hear(0.0, noise)]
    assert events[-1] == SpeechPaused(0, LONG_ENOUGH + TAIL_FRAMES, is_scored)


def test_without_waits_nothing_is_scored() -> None:
    listener = detector()
    (_, pause) = hear(listener, speech(LONG_ENOUGH), silence(TAIL_FRAMES))
    assert pause == SpeechPaused(0, LONG_ENOUGH + TAIL_FRAMES)
    assert not listener.needs_score


def test_a_new_config_without_scores_waits_for_none() -> None:
    listener = detector(eagerness="medium")
    hear(listener, speech(LONG_ENOUGH), silence(SCORE_DUE_FRAMES - 1))
    assert listener.needs_score
    listener.reconfigure(2, 500)
    assert not listener.needs_score
    assert isinstance(hear(listener, silence(10))[-1], TurnEnded)


def test_a_turn_that_is_cut_in_its_pause_waits_for_no_score() -> None:
    listener = detector(eagerness="medium", max_turn_frames=100)
    for energy, frames in ((1.0, 70), (0.001, 4), (1.0, 20)):
        for _ in range(frames):
            listener.hear(0.9, energy)
    events = [e for _ in range(6) for e in listener.hear(0.0, 0.002)]
    assert events == [
        SpeechPaused(0, 99, is_scored=True),
        TurnEnded(0, 72, 71, 72, "too_long"),
        SpeechStarted(72, goes_on=True),
        SpeechPaused(72, 99),
    ]
    assert not listener.needs_score


def test_a_turn_that_opens_again_counts_all_of_its_speech_towards_a_score() -> None:
    listener = detector(eagerness="medium")
    hear(listener, speech(20), silence(17))
    events = hear(listener, speech(20), silence(TAIL_FRAMES))
    assert events == [TurnReopened(0), SpeechPaused(0, 57 + TAIL_FRAMES, is_scored=True)]


mixed = st.lists(
    st.tuples(st.sampled_from([0.9, 0.9, 0.55, 0.45, 0.0, 0.0]), st.integers(1, 70)), max_size=30
)


def turns_with(
    listener: TurnDetector, sound: list[tuple[float, int]], delays: list[int]
) -> list[TurnEvent]:
    """What is found when each score comes some frames late, but before the frame that it is due."""
    found: list[TurnEvent] = []
    asked: list[tuple[SpeechPaused, int]] = []
    for probability, frames in sound:
        for _ in range(frames):
            for pause, due in asked[:]:
                if listener.frames_heard >= due or listener.needs_score:
                    listener.score(pause, (pause.end_frame * 37 % 101) / 100)
                    asked.remove((pause, due))
            events = listener.hear(probability, probability**4)
            found += events
            for event in events:
                if isinstance(event, SpeechPaused) and event.is_scored:
                    delay = delays[len(found) % len(delays)]
                    asked.append((event, listener.frames_heard + delay))
    return [*found, *listener.end_turn()]


@given(
    mixed,
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
    st.sampled_from(["low", "medium", "high"]),
    st.sampled_from([100, 500, 1000]),
    st.sampled_from([60, 400, 9375]),
)
@settings(max_examples=300, deadline=None)
def test_turns_are_the_same_whenever_scores_come(
    sound: list[tuple[float, int]],
    delays: list[int],
    eagerness: str,
    silence_ms: int,
    max_turn_frames: int,
) -> None:
    def new() -> TurnDetector:
        return detector(eagerness=eagerness, silence_ms=silence_ms, max_turn_frames=max_turn_frames)

    assert turns_with(new(), sound, delays) == turns_with(new(), sound, [0])


@given(mixed, st.sampled_from([60, 400]), st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_turns_that_open_again_neither_overlap_nor_get_too_long(
    sound: list[tuple[float, int]], max_turn_frames: int, reopen_ms: int
) -> None:
    listener = detector(reopen_ms, max_turn_frames=max_turn_frames)
    over = 0
    for turn in final_turns(listener, sound):
        assert over <= turn.first_frame <= turn.last_speech_frame < turn.end_frame
        assert turn.end_frame - turn.first_frame <= max_turn_frames
        over = turn.end_frame
