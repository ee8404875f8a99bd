import asyncio
import hashlib
import logging
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from tests.support.gate import Changeable, Gate
from tests.support.metric_values import value_of
from voxtral_worker import metrics
from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import LoadFailure
from voxtral_worker.settings import EMBEDDED_MODEL, REPOSITORY, TURN_MODEL
from voxtral_worker.turns import completeness as scorers
from voxtral_worker.turns.completeness import (
    HEARD_SAMPLES,
    MAX_WAITING,
    Completeness,
    Samples,
    features,
    load_network,
)

CLIPS = EMBEDDED_MODEL / "clips"


@pytest.fixture
def changeable() -> "Changeable[[Samples], float]":
    return Changeable(load_network(TURN_MODEL))


@pytest.fixture
async def scorer(changeable: Changeable[[Samples], float]) -> AsyncIterator[Completeness]:
    scorer = Completeness(changeable)
    scorer.start()
    yield scorer
    scorer.stop()
    assert changeable.called_by is not None
    assert not changeable.called_by.is_alive()


def sound(samples: int, seed: int = 1) -> Samples:
    """Noise whose loudness comes and goes, float32 [n]."""
    random = np.random.default_rng(seed)
    loudness = np.sin(np.arange(samples) / 3000)
    sound: NDArray[np.float32] = (random.normal(0, 0.1, samples) * loudness).astype(np.float32)
    return sound


def reference(samples: Samples) -> Samples:
    """What transformers' own extractor makes of the last 8 s, silence in front."""
    heard = samples[-HEARD_SAMPLES:]
    padded = np.pad(heard, (HEARD_SAMPLES - len(heard), 0))
    made = WhisperFeatureExtractor(chunk_length=8)(
        padded, sampling_rate=SAMPLE_RATE, do_normalize=True, return_tensors="np"
    )
    return made.input_features[0]  # type: ignore[no-any-return]


def scores(outcome: str) -> float:
    return float(value_of(metrics.turn_scores.labels(outcome)))


def test_the_file_is_the_one_whose_licence_stands_beside_it() -> None:
    digest = hashlib.sha256(TURN_MODEL.read_bytes()).hexdigest()
    about = (REPOSITORY / "models" / "smart-turn" / "README.md").read_text("utf-8")
    assert digest == "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f"
    assert digest in about
    licence = (TURN_MODEL.parent / "LICENSE").read_text("utf-8")
    assert licence.startswith("BSD 2-Clause License")


@given(st.integers(0, HEARD_SAMPLES + SAMPLE_RATE), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_features_are_those_of_whispers_extractor(samples: int, seed: int) -> None:
    heard = sound(samples, seed)
    made = features(heard)
    assert made.shape == (80, 800)
    assert made.dtype == np.float32
    assert np.abs(made - reference(heard)).max() < 2e-4


def test_a_short_turn_has_the_silence_before_it_computed_once() -> None:
    made = features(sound(SAMPLE_RATE))
    assert (made[:, :690] == made[:, :1]).all()
    assert not (made[:, 700:] == made[:, :1]).all()


@pytest.mark.parametrize(
    "clip", ["set-a-timer-for-five-minutes.wav", "turn-on-the-kitchen-light.wav"]
)
async def test_a_score_is_what_the_network_says_of_the_sound(
    scorer: Completeness, clip: str
) -> None:
    samples, _ = soundfile.read(CLIPS / clip, dtype="float32")
    # As the file says it, every step in floats: slow, and alike on every processor.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    network = onnxruntime.InferenceSession(str(TURN_MODEL), options)
    (expected,) = network.run(None, {"input_features": features(samples)[None]})
    score = await scorer.ask(samples)
    assert score == pytest.approx(float(expected[0, 0]), abs=0.02)


async def test_the_same_sound_has_the_same_score_whatever_is_asked_beside_it(
    scorer: Completeness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "PATIENCE_S", 60.0)
    heard = sound(3 * SAMPLE_RATE)
    alone = await scorer.ask(heard)
    others = [scorer.ask(heard if i % 2 else sound(SAMPLE_RATE, i)) for i in range(6)]
    assert alone is not None
    assert [await answer for answer in others[1::2]] == [alone] * 3


async def test_beyond_the_queue_there_is_no_score_and_nobody_waits(
    scorer: Completeness, changeable: Changeable[[Samples], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "PATIENCE_S", 60.0)
    gate = changeable.function = Gate(lambda rows: 0.7)
    before = scores("refused")
    first = scorer.ask(sound(100))
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)
    waiting = [scorer.ask(sound(100)) for _ in range(MAX_WAITING)]
    beyond = scorer.ask(sound(100))
    assert beyond.done()
    assert beyond.result() is None
    assert scores("refused") == before + 1
    gate.open.release(100)
    assert await asyncio.gather(first, *waiting) == [0.7] * (1 + MAX_WAITING)


async def test_a_network_that_fails_gives_no_score_and_is_told_once(
    scorer: Completeness, changeable: Changeable[[Samples], float], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(rows: Samples) -> float:
        raise ValueError("no such weights")

    whole, changeable.function = changeable.function, broken
    before = scores("failed")
    assert await scorer.ask(sound(100)) is None
    assert await scorer.ask(sound(100)) is None
    assert scores("failed") == before + 2
    assert caplog.text.count("could not be scored") == 1
    changeable.function = whole
    assert await scorer.ask(sound(100)) is not None


async def test_what_has_waited_too_long_is_not_scored_any_more(
    scorer: Completeness, changeable: Changeable[[Samples], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "PATIENCE_S", 60.0)
    gate = changeable.function = Gate(lambda rows: 0.7)
    before = scores("late")
    first = scorer.ask(sound(100))
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)
    late = scorer.ask(sound(100))
    monkeypatch.setattr(scorers, "PATIENCE_S", 0.0)
    await asyncio.sleep(0.01)
    gate.open.release()
    assert await first == 0.7
    assert await late is None
    assert scores("late") == before + 2
    assert not gate.entered.acquire(blocking=False)


async def test_who_waits_when_it_stops_gets_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "PATIENCE_S", 60.0)
    gate = Gate(lambda rows: 0.7)
    scorer = Completeness(gate)
    scorer.start()
    first = scorer.ask(sound(100))
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)
    left = [scorer.ask(sound(100)) for _ in range(MAX_WAITING)]
    stopping = asyncio.create_task(asyncio.to_thread(scorer.stop))
    while scorer.is_running:
        await asyncio.sleep(0.001)
    gate.open.release(100)
    await stopping
    assert await asyncio.gather(first, *left) == [0.7] + [None] * MAX_WAITING
    assert await scorer.ask(sound(100)) is None


async def test_an_answer_that_nobody_awaits_any_more_harms_nothing(
    scorer: Completeness, changeable: Changeable[[Samples], float]
) -> None:
    gate = changeable.function = Gate(lambda rows: 0.7)
    given_up = scorer.ask(sound(100))
    given_up.cancel()
    gate.open.release(2)
    assert await scorer.ask(sound(100)) == 0.7


def test_a_loop_that_is_gone_harms_nothing() -> None:
    gate = Gate(lambda rows: 0.7)
    scorer = Completeness(gate)
    scorer.start()

    async def leave() -> None:
        scorer.ask(sound(100))
        assert await asyncio.to_thread(gate.entered.acquire, timeout=30)

    asyncio.run(leave())
    gate.open.release(2)

    async def ask() -> float | None:
        return await scorer.ask(sound(100))

    assert asyncio.run(ask()) == 0.7
    scorer.stop()


async def test_no_more_than_the_sound_that_is_heard_is_kept(
    scorer: Completeness, changeable: Changeable[[Samples], float]
) -> None:
    gate = changeable.function = Gate(lambda rows: 0.7)
    first = scorer.ask(sound(100))
    assert await asyncio.to_thread(gate.entered.acquire, timeout=30)
    heard = sound(20 * SAMPLE_RATE)
    whole = weakref.ref(heard)
    tracemalloc.start()
    long = scorer.ask(heard)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del heard
    assert whole() is None
    assert 0 < kept_bytes - 4 * HEARD_SAMPLES < 10_000
    gate.open.release(2)
    await asyncio.gather(first, long)


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_file_that_is_no_turn_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadFailure, match=r"TURN_MODEL is .*other\.onnx.* no turn model"):
        load_network(path)


def test_a_network_of_another_shape_is_no_turn_model() -> None:
    import silero_vad

    other = Path(silero_vad.__file__).parent / "data" / "silero_vad.onnx"
    assert other.is_file()
    with pytest.raises(LoadFailure, match="no turn model"):
        load_network(other)


async def test_a_score_is_counted_with_the_time_it_took(
    scorer: Completeness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = scores("scored") + scores("late")
    await scorer.ask(sound(SAMPLE_RATE))
    assert scores("scored") + scores("late") == before + 1
