"""Whatever runs at the same time, whatever was cached: a session's greedy tokens are its own."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.schedules import BLOCKS, Reference, Said, Schedule, Visit, check, visits
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import Finished
from voxtral_worker.settings import Settings

SCHEDULES = 8


@settings(
    max_examples=SCHEDULES,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sessions=visits(5),
    blocks=st.sampled_from(BLOCKS),
    window_tail=st.sampled_from(["sampled", "sampled", "exact"]),
)
@pytest.mark.timeout(600)
def test_greedy_tokens_do_not_depend_on_company_cache_or_eviction(
    light: LoadedModel, light_reference: Any, sessions: list[Visit], blocks: int, window_tail: str
) -> None:
    of_mode = Reference(light_reference, light, window_tail=window_tail)
    counts = check(light, of_mode, sessions, blocks)
    assert counts["turns"] == sum(len(talk.turns) for talk in sessions)


@pytest.mark.parametrize(("window_tail", "rows"), [("exact", 2 * 375), ("sampled", 2 * 25)])
def test_a_turn_prefills_only_what_it_added(
    light: LoadedModel, window_tail: str, rows: int
) -> None:
    engine = Engine(EngineCore(light, Settings(response_cache_size=0, window_tail=window_tail)))
    engine.start()
    schedule = Schedule(engine)
    schedule.run([Visit(0, (Said(0), Said("hello"), Said(1), Said("what time is it")))])
    engine.stop()
    prompt = answer = 0
    for answered in schedule.results["0"]:
        assert isinstance(answered.ended, Finished)
        usage = answered.ended.usage
        # The last token of an answer is never fed back, so it is not in the cache.
        assert prompt <= usage.cached_tokens <= prompt + answer
        prompt, answer = usage.prompt_tokens, usage.completion_tokens
    assert rows < prompt < rows + 100


@pytest.mark.parametrize("window_tail", ["exact", "sampled"])
def test_an_answer_cut_short_is_remembered_as_it_was_delivered(
    loaded: LoadedModel, reference: Any, window_tail: str
) -> None:
    said = (Said(2, cut=1), Said("turn on the kitchen light", cut=1), Said(3))
    of_mode = Reference(reference, loaded, window_tail=window_tail)
    counts = check(loaded, of_mode, [Visit(0, said)], max(BLOCKS))
    assert counts["turns"] == 3
    assert counts["reused"] == 2


def test_a_session_that_is_gone_leaves_no_blocks(loaded: LoadedModel) -> None:
    core = EngineCore(loaded, Settings())
    engine, cache = Engine(core), core.scheduler.cache
    engine.start()
    schedule = Schedule(engine)
    schedule.run([Visit(0, (Said("hello"),))])
    assert cache.kept > 0
    engine.forget("0")
    schedule.run([Visit(0, ()), Visit(0, (Said("hello"),))])
    engine.stop()
    cache.forget("1")
    assert cache.kept == 0
