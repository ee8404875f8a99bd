"""How many may talk, from what the engine can do."""

import math
import random

import pytest

from voxtral_worker.engine import calibration
from voxtral_worker.engine.calibration import (
    LATE_SHARE,
    TURN_EVERY_S,
    calibrate,
    session_tokens,
    sessions_within,
)
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.settings import Settings


def late_share(sessions: int, goal_s: float, first_s: float, turn_s: float) -> float:
    """Turns beyond the goal when one server takes them in order, by simulation."""
    draw, free_s, now_s, late, turns = random.Random(5), 0.0, 0.0, 0, 40_000
    for _ in range(turns):
        now_s += draw.expovariate(sessions / TURN_EVERY_S)
        start_s = max(now_s, free_s)
        late += start_s - now_s + first_s > goal_s
        free_s = start_s + turn_s
    return late / turns


@pytest.mark.parametrize(
    ("goal_s", "first_s", "turn_s"),
    [(0.25, 0.15, 0.125), (0.25, 0.05, 0.02), (1.0, 0.1, 0.25), (0.3, 0.29, 0.01)],
)
def test_so_many_sessions_keep_the_goal_and_a_few_more_do_not(
    goal_s: float, first_s: float, turn_s: float
) -> None:
    sessions = sessions_within(goal_s, first_s, turn_s)
    # One in twenty, and what 40,000 draws leave uncertain.
    assert late_share(sessions, goal_s, first_s, turn_s) < LATE_SHARE + 0.01
    more = math.ceil(1.1 * sessions) + 2
    assert late_share(more, goal_s, first_s, turn_s) > LATE_SHARE


def test_one_session_may_talk_even_where_it_alone_misses_the_goal() -> None:
    assert sessions_within(0.1, 0.5, 0.2) == 1


def test_a_long_queue_is_never_full() -> None:
    # Slack for hundreds of turns: what remains is how many turns there are a second.
    assert sessions_within(10.0, 0.02, 0.01) == int(0.89 * TURN_EVERY_S / 0.01)


def test_the_engine_is_measured_and_its_memory_counted(loaded: LoadedModel) -> None:
    settings = Settings(device="cpu", dtype="float32", max_batch_size=2)
    engine = Engine(EngineCore(loaded, settings))
    engine.start()
    try:
        measured = calibrate(engine, 60.0)
    finally:
        engine.stop()
    assert measured.sessions == min(
        measured.sessions_in_memory,
        sessions_within(60.0, measured.first_delta_s, 1 / measured.turns_per_s),
    )
    assert measured.sessions_in_memory == engine.kv_tokens // 324
    assert 0 < measured.first_delta_s < 60
    assert engine.running == 0


def test_a_session_keeps_the_rows_of_four_turns_of_speech() -> None:
    assert session_tokens("exact") == 1600
    # 56 rows of 3 s, and 25 tokens with them.
    assert session_tokens("sampled") == 4 * (56 + 25)


def test_what_comes_first_is_not_measured(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    met: set[int] = set()

    def first_deltas(_: Engine, count: int) -> list[float]:
        nonlocal clock
        took_s = count * (0.01 if count in met else 100.0)
        met.add(count)
        clock += took_s
        return [took_s] * count

    monkeypatch.setattr(calibration, "_first_deltas", first_deltas)
    monkeypatch.setattr("voxtral_worker.engine.calibration.time.monotonic", lambda: clock)
    measured = calibrate(Engine(EngineCore(loaded, Settings(device="cpu"))), 0.25)
    assert measured.first_delta_s == pytest.approx(0.01)
    assert measured.turns_per_s == pytest.approx(100)
