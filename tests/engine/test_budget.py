"""A step computes about the same, whatever the prompts are."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine.budget import (
    MOST_ROWS,
    PrefillBudget,
    context_per_row,
    rows_a_step,
    windows_a_step,
)


def test_a_long_prompt_is_taken_in_parts() -> None:
    budget = PrefillBudget(1000.0)
    assert budget.take(300, 0, is_urgent=True) == 300
    assert budget.take(300, 0, is_urgent=True) == MOST_ROWS - 300
    assert budget.take(300, 0, is_urgent=True) == 0


def test_the_longer_the_context_the_fewer_the_rows() -> None:
    rows = [PrefillBudget(1000.0).take(9999, at, is_urgent=True) for at in (0, 1000, 9000)]
    assert rows == [MOST_ROWS, MOST_ROWS // 2, MOST_ROWS // 10]


def test_nobody_is_left_without_a_row_for_ever() -> None:
    assert PrefillBudget(1.0).take(9999, 1_000_000, is_urgent=False) == 1


def test_what_nobody_waits_for_takes_little_beside_others() -> None:
    budget = PrefillBudget(1000.0)
    assert budget.take(9999, 0, is_urgent=False) == 128
    assert budget.take(9999, 0, is_urgent=False) == 0
    assert budget.take(9999, 0, is_urgent=True) == MOST_ROWS - 128


# Milliseconds as they were computed for these cards: one window, 512 tokens of a prompt.
@pytest.mark.parametrize(
    ("card", "window_ms", "prefill_ms", "windows", "rows"),
    [
        ("H100", 3.75, 5, 8, 2048),
        ("A100, L40S", 11.5, 15, 2, 512),
        ("4090", 20, 22, 1, 512),
        ("3090, L4", 48, 66, 1, 256),
        ("none such", 0.001, 0.001, 8, 2048),
        ("a very slow one", 5000, 5000, 1, 256),
    ],
)
def test_a_step_is_as_large_as_the_card_is_fast(
    card: str, window_ms: float, prefill_ms: float, windows: int, rows: int
) -> None:
    assert (windows_a_step(window_ms / 1000), rows_a_step(prefill_ms / 1000)) == (windows, rows)


def test_a_faster_card_takes_more_of_a_prompt() -> None:
    budget = PrefillBudget(1000.0, 2048)
    assert budget.take(9999, 0, is_urgent=False) == 512
    assert budget.take(9999, 0, is_urgent=True) == 2048 - 512


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 30_000), st.booleans())))
def test_a_step_is_bounded(prompts: list[tuple[int, int, bool]]) -> None:
    budget = PrefillBudget(700.0)
    taken = [budget.take(most, context, is_urgent=urgent) for most, context, urgent in prompts]
    assert all(0 <= rows <= most for rows, (most, _, _) in zip(taken, prompts, strict=True))
    cost = [rows * (1 + c / 700) for rows, (_, c, _) in zip(taken, prompts, strict=True)]
    assert sum(cost[1:]) <= MOST_ROWS


def test_attention_weighs_less_the_larger_the_model() -> None:
    tiny = SimpleNamespace(
        hidden_size=192,
        intermediate_size=512,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
    )
    released = SimpleNamespace(
        hidden_size=3072,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    assert 300 < context_per_row(tiny) < 400
    assert 3000 < context_per_row(released) < 5000
