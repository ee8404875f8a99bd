from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.turns.speech_meter import QUIET_FRAMES, SpeechMeter

frames = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0]), st.booleans()), max_size=80)


def metered(heard: list[tuple[float, bool]], max_turn_frames: int = 9375) -> SpeechMeter:
    meter = SpeechMeter(max_turn_frames)
    meter.begin(may_reopen=False)
    for energy, is_speech in heard:
        meter.add(energy, is_speech=is_speech)
    return meter


def test_speech_and_the_silence_after_it_have_a_loudness_of_their_own() -> None:
    meter = metered([(3.0, True), (1.0, True), (9.0, False), (2.0, True), (0.5, False)])
    assert (meter.speech_frames, meter.silence_frames) == (3, 1)
    assert (meter.loudness, meter.noise) == (2.0, 0.5)


def test_what_was_heard_before_a_turn_is_not_of_it() -> None:
    meter = metered([(1.0, True)] * 9 + [(0.0, False)] * 5)
    meter.begin(may_reopen=False)
    meter.add(4.0, is_speech=True)
    assert (meter.frames, meter.last_speech_frame) == (15, 14)
    assert (meter.speech_frames, meter.loudness) == (1, 4.0)


@given(frames, st.integers(1, 40))
def test_the_parts_of_a_split_turn_have_all_its_speech(
    heard: list[tuple[float, bool]], back: int
) -> None:
    heard = [(1.0, True), *heard]
    meter = metered(heard)
    whole, cut = meter.speech_frames, max(1, meter.frames - back)
    last_speech_frame, before = meter.split(cut)
    assert before == sum(is_speech for _, is_speech in heard[:cut])
    assert last_speech_frame == max(n for n, (_, speech) in enumerate(heard[:cut]) if speech)
    assert before + meter.speech_frames == whole


@given(frames)
def test_the_quietest_frame_lies_in_the_latest_of_the_quietest_places(
    heard: list[tuple[float, bool]],
) -> None:
    heard = [(1.0, True)] * QUIET_FRAMES + heard
    middle = metered(heard).quietest_frame()
    energies = [energy for energy, _ in heard]
    sums = [
        sum(energies[start : start + QUIET_FRAMES])
        for start in range(len(energies) - QUIET_FRAMES + 1)
    ]
    start = middle - QUIET_FRAMES // 2
    assert sums[start] == min(sums)
    assert min(sums) not in sums[start + 1 :]
