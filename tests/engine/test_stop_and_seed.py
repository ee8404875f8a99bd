"""Stop texts and seeds through the engine's seam, with the embedded model."""

from collections.abc import Iterator

import pytest

from tests.engine.test_engine import Listener, ask, said, text_of, tokens_of
from tests.support.metric_values import value_of
from voxtral_worker import metrics
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Finished, Sampling
from voxtral_worker.engine.response_cache import ResponseCache
from voxtral_worker.settings import EMBEDDED_MODEL, Settings


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    settings = Settings(model_id=str(EMBEDDED_MODEL), device="cpu", response_cache_size=0)
    running = Engine(EngineCore(loaded, settings))
    running.start()
    yield running
    running.stop()


def ended(listener: Listener) -> tuple[str, str, int]:
    """The text, why it ended, and how many tokens were made."""
    events = listener.all()
    last = events[-1]
    assert isinstance(last, Finished)
    return text_of(events), last.finish_reason, last.usage.completion_tokens


def test_a_stop_text_ends_an_answer_across_the_borders_of_tokens(engine: Engine) -> None:
    whole, _, tokens = ended(ask(engine, said("Hello, how are you?"), Sampling(0.0, 1.0, 24)))
    assert whole == "I am fine, thank you."
    for stop in ("ne, th", ", ", "you.", "I", "am fine, thank you"):
        made = ended(ask(engine, said("Hello, how are you?"), Sampling(0.0, 1.0, 24, (stop,))))
        assert made[:2] == (whole[: whole.index(stop)], "stop")
        assert made[2] <= tokens
    unseen = ended(ask(engine, said("Hello, how are you?"), Sampling(0.0, 1.0, 24, ("zebra", "!"))))
    assert unseen == (whole, "stop", tokens)


def test_no_delta_holds_what_belongs_to_a_stop_text(engine: Engine) -> None:
    sampling = Sampling(0.0, 1.0, 24, ("fine, thank",))
    events = ask(engine, said("Hello, how are you?"), sampling).all()
    assert text_of(events) == "I am "
    assert len(tokens_of(events)) < ended(ask(engine, said("Hello, how are you?"), sampling))[2]


def test_the_most_tokens_let_out_what_was_held(engine: Engine) -> None:
    plain = ended(ask(engine, said("Hello, how are you?"), Sampling(0.0, 1.0, 2)))
    stop = (plain[0][-1] + "zebra",)
    assert ended(ask(engine, said("Hello, how are you?"), Sampling(0.0, 1.0, 2, stop))) == plain


def test_a_seed_gives_the_same_answer_whatever_runs_beside_it(engine: Engine) -> None:
    seeded = Sampling(4.0, 0.999, 24, seed=42)
    alone = text_of(ask(engine, said("tell me something"), seeded).all())
    for others in (3, 7):
        noise = [ask(engine, said(f"number {n}"), Sampling(2.0, 1.0, 40)) for n in range(others)]
        assert text_of(ask(engine, said("tell me something"), seeded).all()) == alone
        for listener in noise:
            listener.all()
    texts = {
        text_of(ask(engine, said("tell me something"), Sampling(4.0, 0.999, 24, seed=seed)).all())
        for seed in range(4)
    }
    assert len(texts) > 1


def hits() -> float:
    return float(value_of(metrics.response_cache_hits))


def test_the_key_of_an_answer_is_a_hash_of_what_was_asked() -> None:
    key = ResponseCache(1).key(Prompt(tuple(range(1000)), ()), Sampling(0.0, 1.0, 24))
    assert key is not None
    assert len(key) == 32


def test_answers_are_kept_by_their_stop_texts_and_seeds(loaded: LoadedModel) -> None:
    running = Engine(EngineCore(loaded, Settings(response_cache_size=16)))
    running.start()
    try:
        asked = [
            Sampling(0.0, 1.0, 24),
            Sampling(0.0, 1.0, 24, ("fine",)),
            Sampling(1.5, 1.0, 24, seed=1),
            Sampling(1.5, 1.0, 24, seed=2),
            Sampling(1.5, 0.5, 24, seed=1),
            Sampling(1.5, 1.0, 24, ("a",), seed=1),
        ]
        first = [ended(ask(running, said("Hello, how are you?"), each)) for each in asked]
        cached, before = [], hits()
        for each in asked:
            events = ask(running, said("Hello, how are you?"), each).all()
            last = events[-1]
            assert isinstance(last, Finished)
            cached.append((text_of(events), last.finish_reason, last.usage.completion_tokens))
        assert hits() == before + len(asked)
        assert cached == first
        assert first[0][0] != first[1][0]
        # Chance without a seed is never kept.
        ask(running, said("Hello, how are you?"), Sampling(1.5, 1.0, 24)).all()
        assert hits() == before + len(asked)
    finally:
        running.stop()
