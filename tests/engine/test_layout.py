"""Which tokens of a window are computed, and what they stand for."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reduced import kept
from voxtral_worker.engine.layout import EXACT, NODES, SAMPLED, layout_of

WINDOW = 480_000


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3 * WINDOW + 10))
def test_the_weights_of_a_layout_are_those_of_its_whole_windows(samples: int) -> None:
    layout = layout_of(samples, SAMPLED)
    assert layout.span == 375 * max(1, math.ceil(samples / WINDOW))
    assert list(layout.places) == sorted(set(layout.places))
    assert layout.places[0] == 0
    assert layout.places[-1] == layout.span - 1
    stood_for = sum(math.exp(weight) for weight in layout.log_weights)
    assert stood_for == pytest.approx(layout.span)
    assert len(layout.log_weights) == layout.rows


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3 * WINDOW + 10))
def test_the_layout_is_the_one_that_was_measured(samples: int) -> None:
    layout, measured = layout_of(samples, SAMPLED), kept(samples)
    assert layout.places == tuple(measured)
    assert layout.log_weights == pytest.approx(tuple(measured.values()))


@pytest.mark.parametrize(
    ("samples", "rows"), [(0, 18), (1, 19), (16_000, 31), (48_000, 56), (240_000, 206)]
)
def test_all_of_the_sound_is_computed_and_sixteen_tokens_behind_it(samples: int, rows: int) -> None:
    layout = layout_of(samples, SAMPLED)
    assert layout.rows == rows
    assert layout.sound == rows - NODES
    assert layout.places[: layout.sound] == tuple(range(layout.sound))
    assert not layout.is_whole


@pytest.mark.parametrize("samples", [457_000, 479_999, WINDOW, 2 * WINDOW])
def test_a_window_that_is_nearly_full_is_computed_whole(samples: int) -> None:
    layout = layout_of(samples, SAMPLED)
    assert layout.is_whole
    assert layout.places == tuple(range(layout.span))
    assert set(layout.log_weights) == {0.0}


def test_only_the_last_window_of_a_piece_is_shortened() -> None:
    layout = layout_of(WINDOW + 16_000, SAMPLED)
    assert layout.windows == 2
    assert layout.places[:375] == tuple(range(375))
    assert layout.last_rows == layout_of(16_000, SAMPLED).rows == layout.rows - 375


@pytest.mark.parametrize("samples", [0, 16_000, WINDOW + 1])
def test_nothing_is_left_out_in_exact_mode(samples: int) -> None:
    layout = layout_of(samples, EXACT)
    assert layout.is_whole
    assert layout.places == tuple(range(layout.span))
    assert not any(layout.log_weights)
