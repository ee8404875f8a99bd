"""A step computes about the same, whatever the prompts are."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine.budget import (
    MOST_ROWS,
    MOST_ROWS_BEHIND_OTHERS,
    PrefillBudget,
    context_per_row,
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
    assert budget.take(9999, 0, is_urgent=False) == MOST_ROWS_BEHIND_OTHERS
    assert budget.take(9999, 0, is_urgent=False) == 0
    assert budget.take(9999, 0, is_urgent=True) == MOST_ROWS - MOST_ROWS_BEHIND_OTHERS


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
