"""What one caller takes of the engine, others have: blocks go back, and to who talks."""

import queue
from collections.abc import Callable, Iterator

import pytest

from tests.engine.test_engine import WAIT_S, Listener, ask, said, text_of, tokens_of
from tests.support.endless import endless_core
from tests.support.metric_values import value_of
from voxtral_worker import metrics
from voxtral_worker.engine import inbox, model_runner
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.inbox import Inbox
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Sampling,
    Urgency,
)
from voxtral_worker.errors import AtCapacity, TooLarge
from voxtral_worker.settings import Settings

BLOCKS = 100
JOB_TOKENS = 400
# Pieces of text that show that an answer is under way; few come before it means to stop.
SOME = 3


@pytest.fixture
def tight_core(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> EngineCore:
    """A core with a cache of 1,600 tokens, whose answers are as long as they may be."""
    a_token = model_runner.bytes_per_token(loaded.model.config.text_config, loaded.dtype)
    monkeypatch.setattr(model_runner, "CPU_CACHE_BYTES", BLOCKS * 16 * a_token)
    return endless_core(loaded, Settings(device="cpu", response_cache_size=0))


@pytest.fixture
def tight(tight_core: EngineCore) -> Iterator[Engine]:
    """An engine of that core."""
    engine = Engine(tight_core)
    engine.start()
    yield engine
    engine.stop()


def listening(
    name: str, order: "queue.Queue[tuple[str, GenerationEvent]]"
) -> Callable[[GenerationEvent], None]:
    return lambda event: order.put((name, event))


def job(tokens: int) -> GenerationRequest:
    question = said("turn on the kitchen light")
    return GenerationRequest(question, Sampling(0.0, 1.0, tokens), Urgency.JOB)


def test_a_turn_that_finds_no_blocks_begins_before_a_long_job_ends_and_changes_nothing_of_it(
    tight_core: EngineCore, tight: Engine
) -> None:
    alone = Listener()
    tight.submit(job(JOB_TOKENS), alone)
    expected = alone.all()
    assert isinstance(expected[-1], Finished)
    before = value_of(metrics.generations_put_back)

    order: queue.Queue[tuple[str, GenerationEvent]] = queue.Queue()
    tight.submit(job(JOB_TOKENS), listening("job", order))
    heard = [order.get(timeout=WAIT_S) for _ in range(SOME)]
    # More than the half that the job leaves.
    asked = GenerationRequest(said("hello"), Sampling(0.0, 1.0, 1200))
    turn = tight.submit(asked, listening("turn", order))
    while sum(isinstance(event, Finished | Failed) for _, event in heard) < 2:
        heard.append(order.get(timeout=WAIT_S))
        if sum(name == "turn" for name, _ in heard) == SOME:
            turn.cancel()

    names = [name for name, _ in heard]
    of_job = [event for name, event in heard if name == "job"]
    assert names.index("turn") < max(i for i, name in enumerate(names) if name == "job")
    ended = [name for name, event in heard if isinstance(event, Finished)]
    assert ended == ["turn", "job"]
    assert text_of(of_job) == text_of(expected)
    assert tokens_of(of_job) == tokens_of(expected)
    last = of_job[-1]
    assert isinstance(last, Finished)
    assert last.usage.completion_tokens == JOB_TOKENS
    assert value_of(metrics.generations_put_back) == before + 1
    assert tight_core.scheduler.cache.free == BLOCKS


def test_the_prompt_of_a_turn_is_made_before_those_of_jobs_that_came_before_it(
    tight: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "JOBS_STEP_S", 0.0)
    order: queue.Queue[tuple[str, GenerationEvent]] = queue.Queue()
    # Too long for the context: only to make their prompts takes time.
    long = GenerationRequest(said("hello " * 20_000), Sampling(0.0, 1.0, 4), Urgency.JOB)
    for _ in range(40):
        tight.submit(long, listening("job", order))
    turn = GenerationRequest(said("hello"), Sampling(0.0, 1.0, 4))
    tight.submit(turn, listening("turn", order))
    ended: list[str] = []
    while len(ended) < 41:
        name, event = order.get(timeout=WAIT_S)
        ended += [name] if isinstance(event, Finished | Failed) else []
    assert ended.index("turn") < 20


def test_jobs_whose_prompts_are_not_made_yet_are_told_that_the_worker_stops(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "JOBS_STEP_S", 0.0)
    engine = Engine(EngineCore(loaded, Settings(device="cpu")))
    listeners = [Listener() for _ in range(20)]
    engine.start()
    long = GenerationRequest(said("hello " * 20_000), Sampling(0.0, 1.0, 4), Urgency.JOB)
    for listener in listeners:
        engine.submit(long, listener)
    engine.stop()
    assert all(isinstance(listener.all()[-1], Failed) for listener in listeners)


def test_a_job_that_waits_again_can_be_cancelled(tight_core: EngineCore, tight: Engine) -> None:
    order: queue.Queue[tuple[str, GenerationEvent]] = queue.Queue()
    generation = tight.submit(job(JOB_TOKENS), listening("job", order))
    order.get(timeout=WAIT_S)
    asked = GenerationRequest(said("hello"), Sampling(0.0, 1.0, 1200))
    turn = tight.submit(asked, listening("turn", order))
    while order.get(timeout=WAIT_S)[0] != "turn":
        pass
    generation.cancel()
    ended: list[tuple[str, str]] = []
    while len(ended) < 2:
        name, event = order.get(timeout=WAIT_S)
        if isinstance(event, Finished):
            ended.append((name, event.finish_reason))
            turn.cancel()
    assert ended == [("job", "interrupted"), ("turn", "interrupted")]
    assert tight_core.scheduler.cache.free == BLOCKS


@pytest.mark.parametrize("urgency", [Urgency.JOB, Urgency.PARTIAL])
def test_what_is_no_turn_and_needs_more_than_half_of_the_cache_is_told_so(
    tight: Engine, urgency: Urgency
) -> None:
    words = said("hello " * 400)
    listener = Listener()
    tight.submit(GenerationRequest(words, Sampling(0.0, 1.0, 4), urgency), listener)
    failed = listener.all()[-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TooLarge)
    assert "room for 796" in failed.error.message
    assert isinstance(ask(tight, words, Sampling(0.0, 1.0, 4)).all()[-1], Finished)


def test_an_owner_who_leaves_while_the_inbox_is_full_is_forgotten_after_its_last_request(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "INBOX_SIZE", 3)
    waiting = Inbox()
    core = EngineCore(loaded, Settings(device="cpu", response_cache_size=0))
    engine, cache = Engine(core, waiting), core.scheduler.cache
    # Requests are there before it runs, so that the inbox is full for sure.
    listeners = [Listener() for _ in range(3)]
    request = GenerationRequest(said("hello"), Sampling(0.0, 1.0, 4), owner="gone")
    for listener in listeners:
        waiting.put(Generation(request, listener))
    with pytest.raises(AtCapacity):
        waiting.put(Generation(request, Listener()))
    engine.forget("gone")
    engine.start()
    for listener in listeners:
        assert isinstance(listener.all()[-1], Finished)
    # The last of them is released before its end is reported.
    assert (cache.kept, cache.free) == (0, cache.total)
    engine.stop()


def test_owners_that_an_engine_never_forgets_do_not_pile_up() -> None:
    waiting = Inbox()
    for number in range(inbox.MOST_LEFT + 5):
        waiting.leave(str(number))
    assert len(list(waiting.take(wait=False))) == inbox.MOST_LEFT


def test_callers_who_come_and_go_leave_no_block_behind(
    tight_core: EngineCore, tight: Engine
) -> None:
    ends: list[Listener] = []
    for number in range(30):
        listener = Listener()
        ends.append(listener)
        urgency = list(Urgency)[number % 4]
        request = GenerationRequest(
            said("good night"), Sampling(0.0, 1.0, 5 + 40 * (number % 5)), urgency, str(number % 7)
        )
        generation = tight.submit(request, listener)
        if number % 3 == 0:
            assert isinstance(listener.events.get(timeout=WAIT_S), Delta | Finished)
            generation.cancel()
    for listener in ends:
        if not (listener.events.queue and isinstance(listener.events.queue[-1], Finished)):
            listener.all()
    for number in range(7):
        tight.forget(str(number))
    ask(tight, said("hello"), Sampling(0.0, 1.0, 2)).all()
    assert (tight_core.scheduler.cache.kept, tight_core.scheduler.cache.free) == (0, BLOCKS)
    assert tight_core.scheduler.everyone() == []
    assert tight_core.embeddings.idle_bytes == 0
