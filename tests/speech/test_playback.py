"""How far ahead speech is, and what was heard of it: by a clock that tests turn."""

from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.speech.playback import Heard, Playback


def test_pieces_go_at_once_until_two_seconds_are_ahead() -> None:
    playback = Playback()
    now_s, sent_at = 100.0, []
    for _ in range(10):
        now_s += playback.wait_s(400, now_s)
        sent_at.append(round(now_s - 100, 3))
        playback.sent("1", "", 400, now_s, is_final=False)
    assert sent_at == [0, 0, 0, 0, 0, 0.4, 0.8, 1.2, 1.6, 2.0]


def test_a_listener_that_has_run_dry_waits_for_the_next_piece() -> None:
    playback = Playback()
    playback.sent("1", "One. ", 1000, 0.0, is_final=False)
    # Nothing was played between 1 s and 5 s.
    playback.sent("1", "Two. ", 1000, 5.0, is_final=True)
    assert playback.ahead_s(5.5) == 0.5
    assert playback.audible(5.5) == [Heard("1", 1500, "One. ")]


def test_a_piece_longer_than_may_be_ahead_goes_when_nothing_else_is() -> None:
    playback = Playback()
    assert playback.wait_s(5000, 0.0) == 0
    playback.sent("1", "", 5000, 0.0, is_final=False)
    assert playback.wait_s(5000, 1.0) == 4.0


def test_whole_words_of_the_sentence_that_was_cut_are_what_was_heard() -> None:
    playback = Playback()
    playback.sent("1", "The light is on. ", 1000, 0.0, is_final=False)
    playback.sent("1", "You may go now.", 1500, 0.0, is_final=True)
    (heard,) = playback.cut(1.9)
    assert heard.text == "The light is on. You may "
    assert heard.heard_ms == 1900


def test_of_a_sentence_whose_end_was_not_sent_the_usual_pace_tells_the_words() -> None:
    playback = Playback()
    playback.sent("1", "This sentence goes on and on for a long while.", 1000, 0.0, is_final=False)
    (heard,) = playback.cut(1.0)
    assert heard.text == "This sentence "


def test_what_was_heard_to_its_end_is_not_cut() -> None:
    playback = Playback()
    playback.sent("1", "Yes.", 400, 0.0, is_final=True)
    assert playback.audible(0.4) == []
    assert playback.cut(0.4) == []
    assert playback.audible(0.3) == [Heard("1", 300, "")]


def test_a_turn_whose_speech_still_goes_on_is_audible_between_two_pieces() -> None:
    playback = Playback()
    playback.sent("1", "Yes. ", 400, 0.0, is_final=False)
    assert [heard.text for heard in playback.audible(3.0)] == ["Yes. "]


def test_two_turns_behind_each_other_are_told_apart() -> None:
    playback = Playback()
    playback.sent("1", "First one.", 1000, 0.0, is_final=True)
    playback.sent("2", "Second one.", 1000, 0.0, is_final=True)
    first, second = playback.audible(0.5)
    assert (first.turn_id, first.heard_ms, first.text) == ("1", 500, "First ")
    assert (second.turn_id, second.heard_ms, second.text) == ("2", 0, "")
    (second,) = playback.audible(1.7)
    assert (second.turn_id, round(second.heard_ms), second.text) == ("2", 700, "Second ")


def test_what_is_cut_is_ahead_of_nobody() -> None:
    playback = Playback()
    playback.sent("1", "A long answer.", 2000, 0.0, is_final=False)
    playback.cut(0.5)
    assert playback.ahead_s(0.5) == 0
    assert playback.audible(0.6) == []
    assert playback.wait_s(400, 0.5) == 0


def test_the_listener_itself_knows_best_what_was_played() -> None:
    playback = Playback()
    playback.sent("1", "The light is on.", 1000, 0.0, is_final=True)
    playback.cut(0.9)
    heard = playback.played("1", 400, 0.9)
    assert heard is not None
    assert heard.text == "The "
    # No listener has played more than was sent, or less than nothing.
    assert playback.played("1", 99_999, 1.0) == Heard("1", 1000, "The light is on.")
    assert playback.played("1", -5, 1.0) == Heard("1", 0, "")
    assert playback.played("another", 5, 1.0) is None


def test_a_listener_that_tells_how_far_it_is_goes_on_from_there() -> None:
    playback = Playback()
    playback.sent("1", "The light is on now.", 2000, 0.0, is_final=True)
    # It began to play half a second late.
    playback.played("1", 500, 1.0)
    assert [heard.heard_ms for heard in playback.audible(1.2)] == [700]


def test_each_piece_says_where_in_its_turn_it_begins() -> None:
    playback = Playback()
    offsets = [playback.sent("7", "", 400, 0.0, is_final=False) for _ in range(3)]
    assert offsets == [0, 400, 800]
    assert playback.sent("8", "", 400, 0.0, is_final=False) == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.floats(20, 3000), st.booleans()), min_size=1, max_size=40
    )
)
def test_never_more_than_two_seconds_are_ahead_of_the_listener(
    pieces: list[tuple[float, float, bool]],
) -> None:
    playback = Playback()
    now_s = 0.0
    for pause_s, duration_ms, begins in pieces:
        now_s += pause_s
        waited_s = playback.wait_s(duration_ms, now_s)
        assert waited_s >= 0
        now_s += waited_s
        playback.sent("1", "Words, " if begins else "", duration_ms, now_s, is_final=False)
        assert playback.ahead_s(now_s) <= max(2.0, duration_ms / 1000) + 1e-9
        for heard in playback.audible(now_s):
            assert heard.text == "Words, " * (len(heard.text) // 7) or heard.text.endswith(" ")
