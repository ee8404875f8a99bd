"""The figures and the gate of a check of the window's tail."""

import dataclasses
import json

import pytest

from voxtral_worker.tail_report import (
    Compared,
    Errors,
    MeasuredAnswer,
    as_record,
    by_length,
    figures_of,
    objections,
    table,
    word_errors,
)


def side(
    text: str, *, is_same: bool = True, loops: bool = False, kl: float = 0.0
) -> MeasuredAnswer:
    return MeasuredAnswer(tuple(text.split()), is_same, loops, (kl,), 0.1, 56)


def compared(
    exact: str, sampled: str, said: str | None = None, seconds: float = 3.0, loops: bool = False
) -> Compared:
    whole = dataclasses.replace(side(exact), first_token_s=0.4, rows=375)
    is_same = exact == sampled
    return Compared(
        "a.wav",
        "transcription",
        seconds,
        whole,
        side(sampled, is_same=is_same, loops=loops, kl=0.0 if is_same else 0.5),
        side(exact, kl=0.1),
        None if said is None else tuple(said.split()),
    )


def test_words_that_differ_are_a_share_of_the_longer_answers() -> None:
    figures = figures_of([compared("a b c", "a x c"), compared("a b", "a b c d e")])
    assert figures.words_differ == pytest.approx((1 + 3) / (3 + 5))
    assert figures.words_differ_shifted == 0
    assert (figures.same, figures.same_shifted) == (0, 2)
    assert figures.first_token_ratio == pytest.approx(4)
    assert (figures.rows_exact, figures.rows_sampled) == (375, 56)
    assert figures.kl_median == 0.5


def test_word_errors_are_the_fewest_changes() -> None:
    assert word_errors("turn on the light".split(), "turn the lights on".split()) == 3
    assert word_errors((), ("a",)) == word_errors(("a",), ()) == 1


def test_the_interval_of_the_difference_holds_the_difference() -> None:
    same = [compared("a b c d", "a b c d", "a b c x")] * 50
    errors = figures_of([*same, compared("a b", "a x", "a b")]).errors
    assert errors is not None
    assert errors.exact == pytest.approx(50 / 202)
    assert errors.sampled == pytest.approx(51 / 202)
    assert errors.low <= 1 / 202 <= errors.high
    assert figures_of([compared("a", "a")]).errors is None


def test_recordings_are_told_apart_by_length() -> None:
    rows = by_length([compared("a", "a", seconds=each) for each in (1.0, 25.0, 3.0, 2.0, 400.0)])
    assert {name: each.answers for name, each in rows.items()} == {
        "under 2 s": 1,
        "under 5 s": 2,
        "20 s and more": 2,
        "all": 5,
    }
    assert list(rows)[:2] == ["under 2 s", "under 5 s"]
    assert len(table(rows).splitlines()) == 2 + 4


def test_the_gate_holds_for_enough_recordings_that_agree() -> None:
    figures = figures_of([compared("a b", "a b", "a b")])
    assert objections(200, figures) == []
    assert objections(199, figures) == ["199 recordings, but 200 are needed"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"new_loops": 1}, "1 answers loop that do not loop in exact mode"),
        ({"words_differ": 0.0101}, "1.01 % of the words differ"),
        ({"errors": Errors(0.1, 0.1, -0.01, 0.0031)}, "higher by up to 0.31 points"),
    ],
)
def test_each_limit_is_kept_by_itself(changes: dict[str, object], sentence: str) -> None:
    figures = figures_of([compared("a b", "a b")])
    (found,) = objections(200, dataclasses.replace(figures, **changes))  # type: ignore[arg-type]
    assert sentence in found


def test_an_answer_that_loops_in_both_modes_is_no_fault_of_the_tail() -> None:
    both = compared("a", "a", loops=True)
    both = dataclasses.replace(both, exact=dataclasses.replace(both.exact, loops=True))
    assert figures_of([both]).new_loops == 0
    assert figures_of([compared("a", "a", loops=True)]).new_loops == 1


def test_a_record_is_json_and_names_the_checkpoint() -> None:
    rows = by_length([compared("a b", "a x", "a b")])
    record = as_record(rows, 1, ["too few"], {"fingerprint": "f", "revision": "main"})
    again = json.loads(json.dumps(record))
    assert again["fingerprint"] == "f"
    assert again["passed"] is False
    assert again["figures"]["all"]["answers"] == 1
