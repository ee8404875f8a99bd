from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.sessions.limits import RollingLimit, Verdict

# Sums of powers of two are exact, so that a window's edge is where it seems to be.
PERIOD_S = 16.0
TICK_S = 1 / 256

steps = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 4)), min_size=1, max_size=60)


@given(steps, st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_no_window_ever_holds_more_than_the_limit(taken: list[tuple[int, int]], most: int) -> None:
    limit = RollingLimit(most, PERIOD_S)
    now_s = 0.0
    allowed: list[tuple[float, int]] = []
    for ticks, units in taken:
        # Squared, most steps are so small that they fall into one grain.
        now_s += ticks * ticks // 3000 * TICK_S
        if limit.take(now_s, units).allowed:
            allowed.append((now_s, units))
        window = [u for at_s, u in allowed if now_s - PERIOD_S < at_s]
        # One piece larger than the limit stands alone.
        assert sum(window) <= most or len(window) == 1


@given(steps, st.integers(4, 8))
@settings(max_examples=60, deadline=None)
def test_after_the_named_wait_what_was_refused_is_allowed(
    taken: list[tuple[int, int]], most: int
) -> None:
    limit = RollingLimit(most, PERIOD_S)
    now_s = 0.0
    for ticks, units in taken:
        now_s += ticks * TICK_S
        verdict = limit.take(now_s, units)
        if not verdict.allowed:
            assert 0 < verdict.retry_after_s <= PERIOD_S
            now_s += verdict.retry_after_s
            assert limit.take(now_s, units).allowed


def test_a_verdict_names_what_is_left_and_when_the_oldest_is_forgotten() -> None:
    limit = RollingLimit(2, 60.0)
    assert limit.take(0.0) == Verdict(True, 2, 1, 60.0, 0.0)
    assert limit.take(10.0) == Verdict(True, 2, 0, 60.0, 0.0)
    assert limit.take(20.0) == Verdict(False, 2, 0, 60.0, 40.0)
    assert limit.take(60.0) == Verdict(True, 2, 0, 70.0, 0.0)


def test_what_is_refused_does_not_count() -> None:
    limit = RollingLimit(1, 60.0)
    assert limit.take(0.0).allowed
    assert not any(limit.take(now_s).allowed for now_s in range(1, 60))
    assert limit.take(60.0).allowed


def test_more_units_than_the_limit_are_taken_once_and_fill_the_periods_that_follow() -> None:
    limit = RollingLimit(3, 60.0)
    assert limit.take(0.0, 8) == Verdict(True, 3, 0, 60.0, 0.0)
    # Three count now, three from 60 on, two from 120 on.
    assert limit.take(1.0) == Verdict(False, 3, 0, 60.0, 119.0)
    assert not limit.take(119.0).allowed
    assert limit.take(120.0) == Verdict(True, 3, 0, 180.0, 0.0)
    assert not limit.take(121.0).allowed
    assert limit.take(180.0, 2).allowed


def test_more_units_than_the_limit_wait_until_nothing_else_counts() -> None:
    limit = RollingLimit(3, 60.0)
    limit.take(0.0)
    assert limit.take(2.0, 4) == Verdict(False, 3, 2, 60.0, 58.0)
    assert limit.take(60.0, 4).allowed


@given(st.integers(1, 8), st.lists(st.integers(1, 40), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_large_pieces_are_taken_at_the_rate_of_the_limit(most: int, pieces: list[int]) -> None:
    limit = RollingLimit(most, PERIOD_S)
    now_s = 0.0
    for units in pieces:
        verdict = limit.take(now_s, units)
        if not verdict.allowed:
            now_s += verdict.retry_after_s
            assert limit.take(now_s, units).allowed
    # What came before the last piece has been waited for, but for one period that was free.
    assert now_s >= (sum(pieces[:-1]) / most - 1) * PERIOD_S
    assert now_s <= sum(-(-units // most) for units in pieces) * PERIOD_S


def test_to_look_counts_nothing() -> None:
    limit = RollingLimit(1, 60.0)
    assert limit.look(0.0) == limit.look(0.0) == Verdict(True, 1, 1, 60.0, 0.0)
    limit.take(1.0)
    assert limit.look(2.0) == Verdict(False, 1, 0, 61.0, 59.0)


def test_units_taken_within_one_grain_are_held_as_one_entry_until_the_last_is_old() -> None:
    limit = RollingLimit(10, 16.0)
    assert all(limit.take(i / 1024).allowed for i in range(10))
    assert not limit.take(16.0).allowed
    assert limit.take(16.0 + 9 / 1024, 10).allowed


def test_entries_do_not_grow_with_the_number_of_calls() -> None:
    limit = RollingLimit(1_000_000, 1.0)
    for i in range(5000):
        limit.take(i / 2048)
    # Each entry is forgotten at once, with all its units.
    left = {limit.look(4999 / 2048 + i / 8192).remaining for i in range(8193)}
    assert max(left) == 1_000_000
    assert len(left) <= 1002
