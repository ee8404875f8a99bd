"""Measures at the start how much the device computes in the time that one step may take."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from voxtral_worker.engine.budget import MOST_ROWS, rows_a_step, windows_a_step
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.model_runner import ModelRunner

log = logging.getLogger(__name__)

# Runs after the first one, which sets libraries up. The shortest was disturbed least.
RUNS = 3


@dataclass(frozen=True)
class StepSize:
    """Windows of audio and tokens of prompts that one step computes, at most."""

    windows: int
    rows: int


def measure(
    encoder: Encoder, runner: ModelRunner, clock: Callable[[], float] = time.monotonic
) -> StepSize:
    """Measure the step that fits the device; `clock` gives seconds. Only before any request."""
    window_s = _seconds(encoder.try_window, clock)
    prefill_s = _seconds(lambda: runner.try_prefill(MOST_ROWS), clock)
    size = StepSize(windows_a_step(window_s), rows_a_step(prefill_s))
    log.info(
        "engine: a step takes %d windows and %d tokens of prompts: one window took %.1f ms, "
        "%d tokens took %.1f ms",
        size.windows,
        size.rows,
        1000 * window_s,
        MOST_ROWS,
        1000 * prefill_s,
    )
    return size


def _seconds(work: Callable[[], None], clock: Callable[[], float]) -> float:
    work()
    times = []
    for _ in range(RUNS):
        began_s = clock()
        work()
        times.append(clock() - began_s)
    # Not 0, where the clock is too coarse.
    return max(min(times), 1e-6)
