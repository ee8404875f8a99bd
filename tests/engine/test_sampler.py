"""Tokens are drawn from the distributions that temperature and top_p describe."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine import sampler
from voxtral_worker.engine.sampler import NUCLEUS_TOKENS, choose, sample_rows, step_seed

DRAWS = 4000


def exact(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities of nucleus sampling, by its definition."""
    probabilities, ids = (logits / temperature).softmax(-1).sort(descending=True)
    kept = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities >= top_p, 0.0)
    return torch.zeros_like(logits).scatter(0, ids, kept / kept.sum())


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("looked_at", [2, 512])
def test_draws_follow_the_exact_distribution(
    monkeypatch: pytest.MonkeyPatch, temperature: float, top_p: float, looked_at: int
) -> None:
    # Two tokens do not reach most nuclei: the others are found by sorting.
    monkeypatch.setattr(sampler, "NUCLEUS_TOKENS", looked_at)
    torch.manual_seed(3)
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, 1.9, -3.0])
    ids, finite = sample_rows(logits.expand(DRAWS, -1), [temperature] * DRAWS, [top_p] * DRAWS)
    expected = exact(logits, temperature, top_p) * DRAWS
    counts = torch.bincount(torch.tensor(ids), minlength=len(logits)).float()
    assert all(finite)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum().item()
    # Five standard deviations beyond the mean of chi-square with at most 5 degrees of freedom.
    assert chi_square < 5 + 5 * math.sqrt(10) + 5


@given(st.integers(0, 2**31), st.floats(0.01, 2.0), st.floats(0.01, 1.0))
def test_equal_seeds_draw_equal_tokens(seed: int, temperature: float, top_p: float) -> None:
    logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(seed))
    drawn = []
    for _ in range(2):
        torch.manual_seed(seed)
        drawn.append(sample_rows(logits, [temperature] * 3, [top_p] * 3))
    assert drawn[0] == drawn[1]


def test_temperature_0_is_greedy_beside_warm_rows() -> None:
    logits = torch.randn(4, 1000)
    ids, _ = sample_rows(logits, [0.0, 1.0, 0.0, 0.7], [1.0, 1.0, 0.5, 0.5])
    greedy = logits.argmax(-1).tolist()
    assert (ids[0], ids[2]) == (greedy[0], greedy[2])
    assert sample_rows(logits, [0.0] * 4, [1.0] * 4)[0] == greedy


def test_a_nucleus_wider_than_what_is_looked_at_is_found_by_sorting() -> None:
    """Equal logits: the nucleus of half of them has far more tokens than are looked at."""
    torch.manual_seed(1)
    vocabulary = 8 * NUCLEUS_TOKENS
    flat, sharp = torch.zeros(vocabulary), torch.arange(vocabulary) * 1.0
    rows = torch.stack([flat, sharp]).repeat(200, 1)
    ids, _ = sample_rows(rows, [1.0] * 400, [0.5] * 400)
    assert len(set(ids[::2])) > 150
    assert set(ids[1::2]) == {vocabulary - 1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_a_row_that_is_not_a_number_is_told_and_harms_no_other(
    temperature: float, top_p: float
) -> None:
    logits = torch.full((5, 8), -50.0)
    logits[:, 3] = 50.0
    logits[1, 0], logits[2, 5] = float("nan"), float("inf")
    logits[3] = float("-inf")
    logits[4, 0] = float("-inf")
    ids, finite = sample_rows(logits, [temperature] * 5, [top_p] * 5)
    assert finite == [True, False, False, False, True]
    assert ids[0] == ids[4] == 3


def test_half_precision_is_sampled_in_float32() -> None:
    logits = torch.zeros(1, 4, dtype=torch.bfloat16)
    chosen = choose(logits, torch.ones(2, 1), draws_all=True, draws_nucleus=False)
    assert chosen.shape == (3, 1)


def seeded_draws(
    logits: torch.Tensor, others: int, temperature: float, top_p: float, seed: int
) -> list[int]:
    """What a row with a seed draws among so many other rows, on each step."""
    drawn = []
    for step in range(20):
        beside = torch.randn(others, len(logits)) * 3
        rows = torch.cat([beside, logits[None]])
        temperatures = [*[1.0] * others, temperature]
        top_ps = [*[0.5, 1.0][:others], *[0.7] * (others - 2), top_p]
        ids, _ = sample_rows(rows, temperatures, top_ps, {others: step_seed(seed, step)})
        drawn.append(ids[-1])
    return drawn


@pytest.mark.parametrize("top_p", [0.3, 0.99, 1.0])
@pytest.mark.parametrize("looked_at", [2, 512])
def test_a_row_with_a_seed_draws_the_same_whatever_is_beside_it(
    monkeypatch: pytest.MonkeyPatch, top_p: float, looked_at: int
) -> None:
    monkeypatch.setattr(sampler, "NUCLEUS_TOKENS", looked_at)
    logits = torch.randn(300, generator=torch.Generator().manual_seed(5))
    alone = seeded_draws(logits, 0, 1.5, top_p, 7)
    for others in (1, 2, 5):
        torch.manual_seed(others)
        assert seeded_draws(logits, others, 1.5, top_p, 7) == alone
    assert len(set(alone)) > 3
    assert seeded_draws(logits, 0, 1.5, top_p, 8) != alone


@pytest.mark.parametrize("top_p", [0.5, 0.99, 1.0])
@pytest.mark.parametrize("looked_at", [2, 512])
def test_seeds_draw_from_the_exact_distribution_too(
    monkeypatch: pytest.MonkeyPatch, top_p: float, looked_at: int
) -> None:
    monkeypatch.setattr(sampler, "NUCLEUS_TOKENS", looked_at)
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, 1.9, -3.0])
    seeds = {row: step_seed(11, row) for row in range(DRAWS)}
    ids, _ = sample_rows(logits.expand(DRAWS, -1), [1.0] * DRAWS, [top_p] * DRAWS, seeds)
    expected = exact(logits, 1.0, top_p) * DRAWS
    counts = torch.bincount(torch.tensor(ids), minlength=len(logits)).float()
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    chi_square = ((counts - expected)[seen] ** 2 / expected[seen]).sum().item()
    assert chi_square < 5 + 5 * math.sqrt(10) + 5


def test_seeds_leave_the_chance_of_others_alone() -> None:
    logits = torch.zeros(2, 1000)
    torch.manual_seed(1)
    plain = sample_rows(logits, [1.0, 1.0], [1.0, 1.0])[0]
    torch.manual_seed(1)
    assert sample_rows(logits, [1.0, 1.0], [1.0, 1.0], {1: 3})[0][0] == plain[0]
