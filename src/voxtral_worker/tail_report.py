"""The results of a tail check: figures, table, gate and record. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Recordings are grouped by length; these are the upper edges of the groups in seconds.
EDGES_S = (2.0, 5.0, 10.0, 20.0, float("inf"))
# The gate: the fewest recordings, the largest share of words that may differ between the modes, and
# the largest increase of the word error rate (upper end of its 95 % interval).
LEAST_RECORDINGS = 200
MOST_WORDS_DIFFER = 0.01
MOST_ERRORS_MORE = 0.003
# Draws of the bootstrap that gives the interval.
RESAMPLES = 2000


@dataclass(frozen=True)
class MeasuredAnswer:
    """An answer, and how it differs from that of the exact mode to the same recording.

    `kl`: for each token, the KL divergence between the exact mode's distribution and this one.
    `rows`: the rows that its prompt takes in the KV cache.
    """

    words: tuple[str, ...]
    is_same: bool
    loops: bool
    kl: tuple[float, ...]
    first_token_s: float
    rows: int


@dataclass(frozen=True)
class Compared:
    """One task on one recording: answered exactly, sampled, and exactly but shifted by 20 ms.

    `said`: the true words, if they are known and the task is a transcription.
    """

    recording: str
    task: str
    seconds: float
    exact: MeasuredAnswer
    sampled: MeasuredAnswer
    shifted: MeasuredAnswer
    said: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Errors:
    """Word error rates of both modes, and the 95 % interval of their difference (bootstrap)."""

    exact: float
    sampled: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """The figures of some comparisons; rates are shares from 0 to 1."""

    answers: int
    same: int
    same_shifted: int
    words_differ: float
    words_differ_shifted: float
    new_loops: int
    loops: int
    kl_median: float
    kl_99: float
    kl_99_shifted: float
    first_token_ratio: float
    rows_exact: float
    rows_sampled: float
    errors: Errors | None


def figures_of(compared: Sequence[Compared]) -> Figures:
    """The figures of one or more comparisons."""
    kl = np.concatenate([np.array(each.sampled.kl) for each in compared])
    shifted = np.concatenate([np.array(each.shifted.kl) for each in compared])
    exact_s = sum(each.exact.first_token_s for each in compared)
    sampled_s = sum(each.sampled.first_token_s for each in compared)
    return Figures(
        answers=len(compared),
        same=sum(each.sampled.is_same for each in compared),
        same_shifted=sum(each.shifted.is_same for each in compared),
        words_differ=_differ((each.exact.words, each.sampled.words) for each in compared),
        words_differ_shifted=_differ((each.exact.words, each.shifted.words) for each in compared),
        new_loops=sum(each.sampled.loops and not each.exact.loops for each in compared),
        loops=sum(each.exact.loops for each in compared),
        kl_median=float(np.median(kl)),
        kl_99=float(np.percentile(kl, 99)),
        kl_99_shifted=float(np.percentile(shifted, 99)),
        first_token_ratio=exact_s / sampled_s,
        rows_exact=float(np.mean([each.exact.rows for each in compared])),
        rows_sampled=float(np.mean([each.sampled.rows for each in compared])),
        errors=_errors([each for each in compared if each.said]),
    )


def by_length(compared: Sequence[Compared]) -> dict[str, Figures]:
    """The figures of each group of lengths that has recordings, and of all together."""
    rows: dict[str, list[Compared]] = {}
    for each in compared:
        edge = next(edge for edge in EDGES_S if each.seconds < edge)
        name = f"under {edge:g} s" if edge < EDGES_S[-1] else f"{EDGES_S[-2]:g} s and more"
        rows.setdefault(name, []).append(each)
    names = sorted(rows, key=lambda name: min(each.seconds for each in rows[name]))
    return {**{name: figures_of(rows[name]) for name in names}, "all": figures_of(compared)}


def objections(recordings: int, figures: Figures) -> list[str]:
    """The reasons why the gate does not hold; empty: it holds."""
    found = []
    if recordings < LEAST_RECORDINGS:
        found.append(f"{recordings} recordings, but {LEAST_RECORDINGS} are needed")
    if figures.new_loops:
        found.append(f"{figures.new_loops} answers loop that do not loop in exact mode")
    if figures.words_differ > MOST_WORDS_DIFFER:
        found.append(
            f"{100 * figures.words_differ:.2f} % of the words differ between the modes, "
            f"but {100 * MOST_WORDS_DIFFER:g} % may"
        )
    if figures.errors is not None and figures.errors.high > MOST_ERRORS_MORE:
        found.append(
            "the word error rate may be higher by up to "
            f"{100 * figures.errors.high:.2f} points, but {100 * MOST_ERRORS_MORE:g} are allowed"
        )
    return found


def table(rows: dict[str, Figures]) -> str:
    """The figures as a Markdown table. In brackets: the exact mode, shifted by 20 ms."""
    lines = [
        "| length | answers | same tokens | words that differ | word errors: exact / sampled "
        "(difference) | loops: exact, new | KL median / 99 % | first token | rows |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in rows.items():
        cells = (
            name,
            str(each.answers),
            f"{each.same} ({each.same_shifted})",
            f"{_percent(each.words_differ)} ({_percent(each.words_differ_shifted)})",
            _errors_cell(each.errors),
            f"{each.loops}, {each.new_loops}",
            f"{each.kl_median:.1e} / {each.kl_99:.1e} ({each.kl_99_shifted:.1e})",
            f"{each.first_token_ratio:.1f} × sooner",
            f"{each.rows_exact:.0f} → {each.rows_sampled:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_record(
    rows: dict[str, Figures], recordings: int, found: list[str], about: dict[str, Any]
) -> dict[str, Any]:
    """The record as a JSON object; `about` identifies the checkpoint."""
    figures = {name: dataclasses.asdict(each) for name, each in rows.items()}
    return {
        **about,
        "recordings": recordings,
        "passed": not found,
        "objections": found,
        "figures": figures,
    }


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """The number of words to insert, delete or replace (Levenshtein distance, 1966)."""
    row = list(range(len(heard) + 1))
    for i, wanted in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != wanted))
    return row[-1]


def _differ(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    differing = words = 0
    for one, other in pairs:
        differing += word_errors(one, other)
        words += max(len(one), len(other))
    return differing / max(1, words)


def _errors(written: Sequence[Compared]) -> Errors | None:
    if not written:
        return None
    counts: NDArray[np.float64] = np.array(
        [
            (
                word_errors(each.said or (), each.exact.words),
                word_errors(each.said or (), each.sampled.words),
                len(each.said or ()),
            )
            for each in written
        ],
        np.float64,
    )
    # Draw recordings and not words, because errors in one recording are not independent.
    draws = np.random.default_rng(1).integers(0, len(counts), (RESAMPLES, len(counts)))
    sums = counts[draws].sum(1)
    low, high = np.percentile((sums[:, 1] - sums[:, 0]) / sums[:, 2], [2.5, 97.5])
    exact, sampled, words = counts.sum(0)
    return Errors(exact / words, sampled / words, float(low), float(high))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _errors_cell(errors: Errors | None) -> str:
    if errors is None:
        return "-"
    interval = f"{100 * errors.low:+.2f} to {100 * errors.high:+.2f}"
    return f"{_percent(errors.exact)} / {_percent(errors.sampled)} ({interval})"
