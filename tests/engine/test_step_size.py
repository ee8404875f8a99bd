"""Steps are sized by what the device needs for them."""

from typing import Any

import numpy as np
import pytest

from tests.engine.test_engine import ask, said, text_of
from tests.support.embedded_model import EMBEDDED
from voxtral_worker.engine import core
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.model_runner import ModelRunner
from voxtral_worker.engine.step_size import StepSize, measure


class Card:
    """Parts of an engine that take as long as on a card, by a clock of their own."""

    def __init__(self, window_s: float, prefill_s: float) -> None:
        self._window_s, self._prefill_s = window_s, prefill_s
        self.now_s = 0.0
        self._is_met: set[str] = set()

    def clock(self) -> float:
        return self.now_s

    def try_window(self) -> None:
        self._pass("window", self._window_s)

    def try_prefill(self, rows: int) -> None:
        self._pass("prefill", self._prefill_s * rows / 512)

    def _pass(self, what: str, seconds: float) -> None:
        # What is met for the first time takes much longer.
        self.now_s += seconds if what in self._is_met else 100 * seconds
        self._is_met.add(what)


@pytest.mark.parametrize(
    ("window_s", "prefill_s", "expected"),
    [
        (0.00375, 0.005, StepSize(8, 2048)),
        (0.0115, 0.015, StepSize(2, 512)),
        (0.048, 0.066, StepSize(1, 256)),
        (0.0, 0.0, StepSize(8, 2048)),
    ],
)
def test_the_second_time_is_what_counts(
    window_s: float, prefill_s: float, expected: StepSize
) -> None:
    card: Any = Card(window_s, prefill_s)
    assert measure(card, card, card.clock) == expected


def test_an_engine_measures_and_then_answers_as_others_do(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real parts are measured, and what that wrote into the cache is not used as context."""
    plain, sized = EngineCore(loaded, EMBEDDED), EngineCore(loaded, EMBEDDED)
    seen: list[StepSize] = []

    def noted(encoder: Encoder, runner: ModelRunner) -> StepSize:
        measure(encoder, runner)
        seen.append(StepSize(4, 1024))
        return seen[-1]

    monkeypatch.setattr(core, "measure", noted)
    sized.fit_steps()
    assert (sized.encoder.at_once, sized.scheduler.most_rows) == (4, 1024)
    answers = []
    for each in (plain, sized):
        engine = Engine(each)
        engine.start()
        engine.warm_up()
        answers.append([text_of(ask(engine, one).all()) for one in (said("hello"), _noise())])
        engine.stop()
    assert len(seen) == 1
    assert answers[0] == answers[1]
    assert all(answers[0])


def _noise() -> Conversation:
    noise = np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    return Conversation(UserTurn((Audio(0.05 * noise),)))
