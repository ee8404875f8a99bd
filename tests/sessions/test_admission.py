"""Who may come in when the worker has much to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.errors import AtCapacity
from voxtral_worker.sessions.admission import (
    LEAST_RECENT,
    RECENT_S,
    TALKING_S,
    Admission,
)


def filled(capacity: int = 3) -> Admission:
    admission = Admission(capacity, goal_ms=250)
    for number in range(capacity):
        admission.talks(f"s{number}", 0.0)
    return admission


def test_the_last_place_is_given_and_the_next_is_refused_with_a_time() -> None:
    admission = filled()
    admission.leaves("s0")
    admission.require_room(1.0)
    admission.talks("new", 1.0)
    with pytest.raises(AtCapacity, match="3 sessions talk") as refused:
        admission.require_room(1.0)
    assert refused.value.retry_after_s == 2.0


def test_who_has_been_quiet_leaves_room_and_is_still_let_speak() -> None:
    admission = filled()
    admission.talks("s1", 5.0)
    assert admission.talking(TALKING_S - 0.1) == 3
    assert admission.room(TALKING_S - 0.1) == 0
    assert admission.talking(TALKING_S) == 1
    admission.require_room(TALKING_S)
    assert admission.room(TALKING_S) == 2
    for name in ("s0", "s2", "new"):
        admission.talks(name, TALKING_S + 1)
    # An admitted session is never refused: there may be more than fit.
    assert admission.talking(TALKING_S + 1) == 4
    assert admission.room(TALKING_S + 1) == 0


def test_newcomers_wait_while_answers_are_late_however_few_talk() -> None:
    admission = Admission(100, goal_ms=250)
    for _ in range(LEAST_RECENT - 1):
        admission.answered(900, 1.0)
    admission.require_room(1.0)
    admission.answered(900, 1.0)
    assert admission.room(1.0) == 0
    with pytest.raises(AtCapacity, match="longer than 250 ms"):
        admission.require_room(1.0)
    # What is long ago no longer counts.
    assert admission.room(1.0 + RECENT_S) == 0
    assert admission.room(1.1 + RECENT_S) == 100


def test_one_late_answer_in_twenty_is_within_the_goal_and_two_are_not() -> None:
    admission = Admission(100, goal_ms=250)
    for _ in range(19):
        admission.answered(250, 1.0)
    admission.answered(251, 1.0)
    assert not admission.is_late(1.0)
    admission.answered(251, 1.0)
    assert admission.is_late(1.0)


def test_a_session_that_was_never_here_can_leave() -> None:
    Admission(1, 250).leaves("nobody")


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(0, 20)), max_size=60),
    st.integers(1, 5),
)
def test_newcomers_alone_never_make_more_talk_than_fit(
    steps: list[tuple[str, bool, float]], capacity: int
) -> None:
    admission, now_s, inside = Admission(capacity, 250), 0.0, set[str]()
    for name, leaves, pause_s in steps:
        now_s += pause_s
        if leaves:
            admission.leaves(name)
            inside.discard(name)
        elif name not in inside:
            room = admission.room(now_s)
            try:
                admission.require_room(now_s)
            except AtCapacity:
                assert room == 0
                continue
            assert room > 0
            admission.talks(name, now_s)
            inside.add(name)
        assert admission.talking(now_s) <= capacity
