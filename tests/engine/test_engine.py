"""The engine through its seam: requests in, events out."""

import gc
import json
import queue
import wave
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxtral_worker.engine import model_runner
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation, GenerationStream
from voxtral_worker.engine.layout import layout_of
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import (
    Delta,
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    HistoryTrimmed,
    Sampling,
)
from voxtral_worker.errors import EngineFailure, NotReady, OutOfMemory, TooLarge
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

GREEDY = Sampling(0.0, 1.0, 24)
WAIT_S = 60.0


class Listener:
    """Collects the events of one generation."""

    def __init__(self) -> None:
        self.events: queue.Queue[GenerationEvent] = queue.Queue()

    def __call__(self, event: GenerationEvent) -> None:
        self.events.put(event)

    def all(self) -> list[GenerationEvent]:
        seen: list[GenerationEvent] = []
        while not seen or not isinstance(seen[-1], Finished | Failed):
            seen.append(self.events.get(timeout=WAIT_S))
        return seen


def ask(engine: Engine, conversation: Conversation, sampling: Sampling = GREEDY) -> Listener:
    listener = Listener()
    engine.submit(GenerationRequest(conversation, sampling), listener)
    return listener


def tokens_of(events: list[GenerationEvent]) -> list[int]:
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


def text_of(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def said(text: str) -> Conversation:
    return Conversation(UserTurn((text,)))


def clips() -> dict[str, np.ndarray]:
    folder = Path(EMBEDDED_MODEL) / "clips"
    found = {}
    for name, words in json.loads((folder / "index.json").read_text()).items():
        with wave.open(str(folder / name)) as file:
            data = file.readframes(file.getnframes())
        found[words] = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    return found


@pytest.fixture(scope="module")
def written(loaded: LoadedModel, generate: Any) -> dict[str, list[int]]:
    """What generate() writes down of each bundled clip."""
    return {
        words: generate(
            loaded.processor.apply_transcription_request(
                audio=[samples], model_id="v", format=["wav"], sampling_rate=16_000
            ),
            GREEDY.max_tokens,
        )
        for words, samples in clips().items()
    }


def test_greedy_tokens_of_a_transcription_are_those_of_generate(
    exact_engine: Engine, written: dict[str, list[int]]
) -> None:
    listeners = {}
    # A whole window costs a CPU a second; of a sampled tail all clips are compared below.
    for words, samples in islice(clips().items(), 4):
        spoken = Conversation(UserTurn((Audio(samples),)), transcribe=True)
        listeners[words] = ask(exact_engine, spoken)
    for words, listener in listeners.items():
        assert tokens_of(listener.all()) == written[words]


def test_greedy_tokens_of_a_conversation_are_those_of_generate(
    engine: Engine, loaded: LoadedModel, generate: Any
) -> None:
    history: tuple[Exchange, ...] = ()
    messages: list[dict[str, Any]] = []
    for text in ("hello", "turn on the kitchen light", "what time is it"):
        user = UserTurn((text,))
        events = ask(engine, Conversation(user, history)).all()
        messages.append({"role": "user", "content": text})
        expected = generate(loaded.processor.apply_chat_template(messages), GREEDY.max_tokens)
        assert tokens_of(events) == expected
        history += (Exchange(user, AssistantTurn(tuple(expected))),)
        messages.append({"role": "assistant", "content": text_of(events)})


def test_the_embedded_model_says_the_same_of_a_sampled_tail(
    engine: Engine, written: dict[str, list[int]]
) -> None:
    assert engine.window_tail == "sampled"
    listeners = {}
    for words, samples in clips().items():
        spoken = Conversation(UserTurn((Audio(samples),)), transcribe=True)
        listeners[words] = ask(engine, spoken)
    for words, samples in clips().items():
        events = listeners[words].all()
        assert tokens_of(events) == written[words]
        # Rows that were computed.
        assert isinstance(events[-1], Finished)
        usage = events[-1].usage
        assert usage.audio_tokens == layout_of(len(samples), "sampled").rows
        assert usage.prompt_tokens == usage.audio_tokens + 5


def test_the_context_of_a_sampled_tail_ends_by_positions(loaded: LoadedModel) -> None:
    engine = Engine(EngineCore(loaded, Settings(max_context_tokens=1200, window_tail="sampled")))
    engine.start()
    audio = [Audio(np.zeros(1600, np.float32)) for _ in range(3)]
    history = tuple(Exchange(UserTurn((each,)), AssistantTurn(text="Yes.")) for each in audio[:2])
    fits = ask(engine, Conversation(UserTurn(("hello",)), history)).all()
    more = ask(engine, Conversation(UserTurn((audio[2],)), history), Sampling(0.0, 1.0, 99)).all()
    engine.stop()
    assert not isinstance(fits[0], HistoryTrimmed)
    # Three windows take 1,125 positions, of which 20 rows each are computed.
    assert isinstance(more[0], HistoryTrimmed)


def test_the_bundled_clips_are_understood(engine: Engine) -> None:
    for words, samples in clips().items():
        silence = np.zeros(4800, np.float32)
        audio = Audio(np.concatenate([silence, samples, silence]))
        events = ask(engine, Conversation(UserTurn((audio,)), transcribe=True)).all()
        assert text_of(events).lower().rstrip(".?") == words


def test_usage_counts_prompt_and_answer(engine: Engine) -> None:
    events = ask(engine, said("hello")).all()
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.finish_reason == "stop"
    assert last.usage.completion_tokens == len(tokens_of(events))
    assert last.usage.prompt_tokens > 3
    assert min(last.timings.queue_s, last.timings.prefill_s) >= 0


def test_an_answer_as_long_as_allowed_ends_with_length(engine: Engine) -> None:
    events = ask(engine, said("turn on the kitchen light"), Sampling(0.0, 1.0, 2)).all()
    assert isinstance(events[-1], Finished)
    assert events[-1].finish_reason == "length"
    assert events[-1].usage.completion_tokens == 2


def test_the_same_greedy_question_is_answered_from_the_cache(
    engine: Engine, loaded: LoadedModel
) -> None:
    first = ask(engine, said("good night")).all()
    second = ask(engine, said("good night")).all()
    assert text_of(first) == text_of(second)
    assert isinstance(first[-1], Finished) and isinstance(second[-1], Finished)
    # Another caller may have been first, and is not given away.
    assert second[-1].usage == first[-1].usage
    warm = ask(engine, said("good night"), Sampling(0.5, 1.0, 24)).all()
    assert isinstance(warm[-1], Finished)
    assert warm[-1].usage.cached_tokens == 0


def test_history_that_does_not_fit_is_let_go_and_told(loaded: LoadedModel) -> None:
    engine = Engine(EngineCore(loaded, Settings(max_context_tokens=512)))
    engine.start()
    exchange = Exchange(UserTurn(("hello " * 30,)), AssistantTurn(text="Yes."))
    events = ask(engine, Conversation(UserTurn(("hello",)), (exchange,) * 12)).all()
    engine.stop()
    assert isinstance(events[0], HistoryTrimmed)
    assert 0 < events[0].exchanges < 12
    assert isinstance(events[-1], Finished)


def test_a_prompt_beyond_the_context_fails_alone(loaded: LoadedModel) -> None:
    engine = Engine(EngineCore(loaded, Settings(max_context_tokens=512)))
    engine.start()
    too_long = ask(engine, said("hello " * 1000)).all()
    fine = ask(engine, said("hello")).all()
    engine.stop()
    assert isinstance(too_long[-1], Failed)
    assert isinstance(too_long[-1].error, TooLarge)
    assert isinstance(fine[-1], Finished)


def test_a_cancelled_generation_ends_interrupted(engine: Engine) -> None:
    listener = Listener()
    request = GenerationRequest(said("call one two three four five"), Sampling(0.9, 1.0, 4096))
    generation = engine.submit(request, listener)
    generation.cancel()
    last = listener.all()[-1]
    assert isinstance(last, Finished)
    assert last.finish_reason == "interrupted"


class BrokenRunner:
    """The real runner, but steps fail where a test wants it."""

    def __init__(self, runner: Any, errors: Iterator[Exception | None]) -> None:
        self._runner = runner
        self.errors = errors
        self.device_answers = True

    def step(self, chunks: Any) -> Any:
        error = next(self.errors, None)
        if error is not None:
            raise error
        return self._runner.step(chunks)

    def answers(self) -> bool:
        return self.device_answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def break_core(core: EngineCore, *errors: Exception | None) -> BrokenRunner:
    broken = BrokenRunner(core.runner, iter(errors))
    core.runner = broken  # type: ignore[assignment]
    return broken


def test_who_is_cancelled_while_sound_is_encoded_is_not_computed(
    core: EngineCore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, submitted = core.batcher.encode_some, queue.Queue[Generation]()

    def encode_and_cancel(waiting: Any) -> Any:
        failures = encode(waiting)
        if waiting:
            submitted.get(timeout=WAIT_S).cancel()
        return failures

    monkeypatch.setattr(core.batcher, "encode_some", encode_and_cancel)
    steps = break_core(core, *[AssertionError("a step for nobody")] * 4)
    spoken = Conversation(UserTurn((Audio(np.zeros(8000, np.float32)),)))
    listener = Listener()
    submitted.put(engine.submit(GenerationRequest(spoken, GREEDY), listener))
    (ended,) = listener.all()
    assert isinstance(ended, Finished)
    assert (ended.finish_reason, ended.usage.completion_tokens) == ("interrupted", 0)
    assert len(list(steps.errors)) == 4


def test_a_failing_step_fails_its_generation_and_the_loop_goes_on(
    core: EngineCore, engine: Engine
) -> None:
    break_core(core, RuntimeError("/a/path in a kernel"))
    failed = ask(engine, said("hello")).all()[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "PROCESSING_ERROR"
    assert "/a/path" not in failed.error.message
    assert isinstance(ask(engine, said("hello")).all()[-1], Finished)
    assert engine.is_healthy


def test_memory_that_is_short_once_is_tried_again(core: EngineCore, engine: Engine) -> None:
    break_core(core, torch.OutOfMemoryError("short"))
    assert isinstance(ask(engine, said("hello")).all()[-1], Finished)


def test_memory_that_stays_short_is_told_as_such(core: EngineCore, engine: Engine) -> None:
    break_core(core, torch.OutOfMemoryError("short"), torch.OutOfMemoryError("short"))
    failed = ask(engine, said("hello")).all()[-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutOfMemory)


def test_a_lost_device_makes_the_engine_unhealthy(core: EngineCore, engine: Engine) -> None:
    broken = break_core(core, RuntimeError("device lost"))
    broken.device_answers = False
    assert isinstance(ask(engine, said("hello")).all()[-1], Failed)
    ask_refused = pytest.raises(NotReady)
    with ask_refused:
        while True:
            ask(engine, said("hello")).all()
    assert not engine.is_healthy


def test_a_stopped_engine_ends_what_waits(loaded: LoadedModel) -> None:
    engine = Engine(EngineCore(loaded, Settings()))
    with pytest.raises(NotReady):
        ask(engine, said("hello"))
    engine.start()
    listener = ask(engine, said("hello"), Sampling(1.0, 1.0, 4096))
    engine.stop()
    assert isinstance(listener.all()[-1], Failed | Finished)


def test_warm_up_says_when_the_model_does_not_answer(core: EngineCore, engine: Engine) -> None:
    break_core(core, RuntimeError("no"))
    with pytest.raises(EngineFailure):
        engine.warm_up()


async def test_a_stream_gives_deltas_and_then_the_end(engine: Engine) -> None:
    stream = GenerationStream()
    engine.submit(GenerationRequest(said("hello"), GREEDY), stream.listener)
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert text_of(list(events))


async def test_a_stream_raises_the_error_of_its_generation(
    core: EngineCore, engine: Engine
) -> None:
    break_core(core, RuntimeError("no"))
    stream = GenerationStream()
    engine.submit(GenerationRequest(said("hello"), GREEDY), stream.listener)
    with pytest.raises(EngineFailure):
        _ = [event async for event in stream]


def test_a_generation_is_cancelled_from_any_thread() -> None:
    generation = Generation(GenerationRequest(said("hello")), Listener())
    assert not generation.is_cancelled
    generation.cancel()
    assert generation.is_cancelled


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_of_an_owner_who_leaves_in_mid_response_nothing_is_kept(
    core: EngineCore, engine: Engine, is_cancelled: bool
) -> None:
    listener = Listener()
    request = GenerationRequest(said("hello"), GREEDY, owner="gone")
    generation = engine.submit(request, listener)
    first = listener.events.get(timeout=WAIT_S)
    assert isinstance(first, Delta)
    if is_cancelled:
        generation.cancel()
    engine.forget("gone")
    listener.all()
    # The next one is taken in after the owner is forgotten.
    ask(engine, said("good night")).all()
    cache = core.scheduler.cache
    assert (cache.kept, cache.free) == (0, cache.total)


def test_a_context_is_no_longer_than_the_model_was_made_for(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = loaded.model.config.text_config
    monkeypatch.setattr(positions, "max_position_embeddings", 131_072)
    assert Engine(EngineCore(loaded, Settings(device="cpu"))).context_tokens == 32_768
    told = Settings(device="cpu", max_context_tokens=65_536)
    assert Engine(EngineCore(loaded, told)).context_tokens == 65_536
    monkeypatch.setattr(positions, "max_position_embeddings", 4096)
    assert Engine(EngineCore(loaded, told)).context_tokens == 4096


def test_a_context_is_no_longer_than_the_cache_holds(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_token = model_runner.bytes_per_token(loaded.model.config.text_config, loaded.dtype)
    monkeypatch.setattr(model_runner, "CPU_CACHE_BYTES", 100 * 16 * a_token)
    small = Engine(EngineCore(loaded, Settings(device="cpu", window_tail="exact")))
    assert small.context_tokens == small.kv_tokens == 1600
    # Positions are more than rows: only these must fit.
    sampled = Engine(EngineCore(loaded, Settings(device="cpu", window_tail="sampled")))
    assert sampled.kv_tokens == 1600
    assert sampled.context_tokens == 32_768


def test_an_engine_that_has_stopped_holds_no_cache(loaded: LoadedModel) -> None:
    core = EngineCore(loaded, Settings(device="cpu"))
    engine = Engine(core)
    engine.start()
    engine.warm_up()
    tensors = [weakref.ref(tensor) for tensor in core.runner.kv_tensors]
    gc.disable()
    try:
        engine.stop()
        assert tensors
        assert [tensor() for tensor in tensors] == [None] * len(tensors)
    finally:
        gc.enable()
