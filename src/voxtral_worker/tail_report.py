"""What a check of the window's tail found: tables, the gate, and the record. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Lengths in seconds, by which recordings are told apart.
EDGES_S = (2.0, 5.0, 10.0, 20.0, float("inf"))
# The gate.
LEAST_RECORDINGS = 200
MOST_WORDS_DIFFER = 0.01
MOST_ERRORS_MORE = 0.003
RESAMPLES = 2000


@dataclass(frozen=True)
class Beside:
    """An answer beside that of the exact mode; `kl` is of the distribution of each token."""

    words: tuple[str, ...]
    is_same: bool
    loops: bool
    kl: tuple[float, ...]
    first_token_s: float
    rows: int


@dataclass(frozen=True)
class Compared:
    """One task for one recording, of `seconds`: exact, sampled, and exact 20 ms later.

    `said` is what was said, where somebody wrote it down and the task is to write it down.
    """

    recording: str
    task: str
    seconds: float
    exact: Beside
    sampled: Beside
    shifted: Beside
    said: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Errors:
    """Word errors of both modes, and the 95 % interval of the difference by resampling."""

    exact: float
    sampled: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """What is told of some comparisons; rates are shares, 0 to 1."""

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
    """Of at least one comparison."""
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
    """Figures of each length that was met, and of all."""
    rows: dict[str, list[Compared]] = {}
    for each in compared:
        edge = next(edge for edge in EDGES_S if each.seconds < edge)
        name = f"under {edge:g} s" if edge < EDGES_S[-1] else f"{EDGES_S[-2]:g} s and more"
        rows.setdefault(name, []).append(each)
    names = sorted(rows, key=lambda name: min(each.seconds for each in rows[name]))
    return {**{name: figures_of(rows[name]) for name in names}, "all": figures_of(compared)}


def objections(recordings: int, figures: Figures) -> list[str]:
    """Why the gate does not hold; none where it does."""
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
    """All lengths, in Markdown; in brackets the exact mode 20 ms later."""
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
    """The record as JSON has it; `about` names the checkpoint."""
    figures = {name: dataclasses.asdict(each) for name, each in rows.items()}
    return {
        **about,
        "recordings": recordings,
        "passed": not found,
        "objections": found,
        "figures": figures,
    }


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Words to put in, take out or change (Levenshtein, 1966)."""
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
    # Recordings are drawn, not words: errors of one recording come together.
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
