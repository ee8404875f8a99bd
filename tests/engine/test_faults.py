"""What one generation does wrong is its own failure."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.test_engine import GREEDY, Listener, ask, break_core, said, text_of, tokens_of
from tests.support.batching import batcher_of
from voxtral_worker.engine import output_processor
from voxtral_worker.engine.constraint import Constraint
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.detokenizer import Detokenizer
from voxtral_worker.engine.encoder import WINDOWS_AT_ONCE, Encoder
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.faults import Faults, attempt
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.grammar import Shape
from voxtral_worker.engine.inbox import Inbox
from voxtral_worker.engine.kv_cache import KvCache
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import Prompt
from voxtral_worker.engine.request import Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.engine.response import Response
from voxtral_worker.engine.response_cache import ResponseCache
from voxtral_worker.engine.sampler import sample_rows
from voxtral_worker.engine.sequence import Sequence
from voxtral_worker.engine.tools import NO_TOOLS
from voxtral_worker.errors import BadInput, OutOfMemory
from voxtral_worker.settings import Settings

BAD_WORD = "kitchen"
TEMPERATURES = {"a": 0.5, "b": 0.6, "c": 0.7}


@contextmanager
def bad_rows(loaded: LoadedModel) -> Iterator[None]:
    """A checkpoint of which one word's rows are NaN."""
    ids = loaded.tokenizer.encode(BAD_WORD, bos=False, eos=False)
    others = set(loaded.tokenizer.encode("hello what time is it", bos=False, eos=False))
    bad = [token for token in ids if token not in others]
    assert bad
    bad_ids = torch.tensor(bad)

    def spoil(_: object, taken: tuple[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return rows.masked_fill(torch.isin(taken[0], bad_ids)[..., None], float("nan"))

    hook = loaded.model.get_input_embeddings().register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


def ask_as(engine: Engine, owner: str, text: str, sampling: Sampling = GREEDY) -> Listener:
    listener = Listener()
    engine.submit(GenerationRequest(said(text), sampling, owner=owner), listener)
    return listener


@pytest.fixture
def small_core(loaded: LoadedModel) -> EngineCore:
    """A core of few blocks, so that they are used again at once."""
    core = EngineCore(loaded, Settings(response_cache_size=0))
    core.scheduler.cache = KvCache(8)
    return core


@pytest.fixture
def small(small_core: EngineCore) -> Iterator[Engine]:
    """An engine of that core."""
    running = Engine(small_core)
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_nan_of_one_session_reaches_no_other(
    small: Engine, loaded: LoadedModel, temperature: float
) -> None:
    expected = tokens_of(ask(small, said("what time is it")).all())
    with bad_rows(loaded):
        for number in range(8):
            sampling = Sampling(temperature, 0.9, 24)
            bad = ask_as(small, "bad", f"{BAD_WORD} {BAD_WORD} {BAD_WORD}", sampling)
            good = ask_as(small, f"good {number}", "what time is it")
            (failed,) = bad.all()
            assert isinstance(failed, Failed)
            assert failed.error.code == "PROCESSING_ERROR"
            assert tokens_of(good.all()) == expected
            small.forget(f"good {number}")


def test_nothing_of_a_failed_sequence_is_kept(
    small_core: EngineCore, small: Engine, loaded: LoadedModel
) -> None:
    small_core.outputs.cache = kept = ResponseCache(4)
    with bad_rows(loaded):
        assert isinstance(ask_as(small, "bad", BAD_WORD).all()[-1], Failed)
        ask(small, said("hello")).all()
        assert small_core.scheduler.cache.kept == 0
        assert kept.answers == 1
        # Not from the cache either.
        assert isinstance(ask_as(small, "bad", BAD_WORD).all()[-1], Failed)


def test_blocks_hold_nothing_when_a_sequence_takes_them(
    small_core: EngineCore, small: Engine
) -> None:
    for tensor in small_core.runner.kv_tensors:
        tensor.fill_(float("nan"))
    assert text_of(ask(small, said("hello")).all())


class BadLogits:
    """Passes logits on with those of one row at each step made NaN."""

    def __init__(self, core: EngineCore, bad: str) -> None:
        self._runner = core.runner
        self._bad = bad
        core.runner = self  # type: ignore[assignment]

    def step(self, chunks: Any) -> torch.Tensor:
        logits = self._runner.step(chunks)
        wanted = [chunk for chunk in chunks if chunk.wants_logits]
        for row, chunk in zip(logits, wanted, strict=True):
            if chunk.sequence.owner == self._bad:
                row.fill_(float("nan"))
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def test_a_row_that_is_not_finite_fails_its_sequence_alone(
    core: EngineCore, engine: Engine
) -> None:
    BadLogits(core, "b")
    listeners = {name: ask_as(engine, name, "hello", Sampling(0.5, 1.0, 8)) for name in "abc"}
    ended = {name: listener.all()[-1] for name, listener in listeners.items()}
    assert isinstance(ended["b"], Failed)
    assert isinstance(ended["a"], Finished)
    assert isinstance(ended["c"], Finished)


def test_memory_short_in_the_sampler_fails_only_whom_it_stays_short_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(logits: torch.Tensor, temperatures: list[float], *rest: Any) -> Any:
        if TEMPERATURES["b"] in temperatures:
            raise torch.OutOfMemoryError("short")
        return sample_rows(logits, temperatures, *rest)

    monkeypatch.setattr(output_processor, "sample_rows", short)
    listeners = {
        name: ask_as(engine, name, "hello", Sampling(temperature, 1.0, 8))
        for name, temperature in TEMPERATURES.items()
    }
    ended = {name: listener.all()[-1] for name, listener in listeners.items()}
    assert isinstance(ended["b"], Failed)
    assert isinstance(ended["b"].error, OutOfMemory)
    assert isinstance(ended["a"], Finished)
    assert isinstance(ended["c"], Finished)


@pytest.mark.parametrize("count", [1, 3])
def test_another_attempt_holds_nothing_of_the_failed_one(count: int) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def inner() -> None:
        temporary = torch.zeros(1)
        held.append(weakref.ref(temporary))
        raise torch.OutOfMemoryError("short")

    def work(_: list[int]) -> None:
        alive.extend(reference() is not None for reference in held)
        if held:
            return
        try:
            inner()
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError("shorter") from error

    assert attempt(list(range(count)), work) == []
    assert alive
    assert not any(alive)


def test_of_several_only_what_fails_alone_is_failed() -> None:
    tried: list[list[int]] = []

    def work(items: list[int]) -> None:
        tried.append(items)
        if 2 in items:
            raise ValueError("two")

    ((item, error),) = attempt([1, 2, 3], work)
    assert (item, str(error)) == (2, "two")
    assert tried == [[1, 2, 3], [1], [2], [3]]


def loud(level: float) -> Conversation:
    return Conversation(UserTurn((Audio(np.full(1600, level, np.float32)),)))


@pytest.mark.parametrize(
    ("window_tail", "name"), [("exact", "encode"), ("sampled", "encode_short")]
)
def test_of_windows_encoded_together_only_the_one_at_fault_fails(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, window_tail: str, name: str
) -> None:
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", 8)
    core, inbox = EngineCore(loaded, Settings(window_tail=window_tail)), Inbox()
    engine = Engine(core, inbox)
    encode, sizes = getattr(core.encoder, name), []

    def encode_some(windows: Any) -> torch.Tensor:
        features = windows if window_tail == "exact" else windows.features
        sizes.append(len(features))
        if bool((features.amax(dim=(1, 2)) == features.amin(dim=(1, 2))).any()):
            raise RuntimeError("no such sound")
        return encode(windows)  # type: ignore[no-any-return]

    monkeypatch.setattr(core.encoder, name, encode_some)
    silence = Conversation(UserTurn((Audio(np.zeros(1600, np.float32)),)))
    listeners = []
    for conversation in (loud(0.1), silence, loud(0.2)):
        listener = Listener()
        inbox.put(Generation(GenerationRequest(conversation, GREEDY), listener))
        listeners.append(listener)
    engine.start()
    ended = [listener.all()[-1] for listener in listeners]
    engine.stop()
    assert [type(event) for event in ended] == [Finished, Failed, Finished]
    assert max(sizes) == 3


def test_a_sound_whose_features_cannot_be_made_fails_alone(loaded: LoadedModel) -> None:
    encoder = Encoder(loaded)
    encoder.at_once = 2
    embeddings, batcher = batcher_of(encoder, loaded)
    good, bad = Audio(np.zeros(1600, np.float32)), Audio(np.zeros((2, 2), np.float32))
    ((failed, _),) = batcher.encode_some([bad, good])
    assert failed is bad
    assert good in embeddings


def test_a_step_that_is_short_of_memory_for_all_is_done_for_each(
    core: EngineCore, engine: Engine
) -> None:
    break_core(core, torch.OutOfMemoryError("short"), None, torch.OutOfMemoryError("short"))
    listeners = [ask(engine, said("hello"), Sampling(0.5, 1.0, 8)) for _ in range(3)]
    assert all(isinstance(listener.all()[-1], Finished) for listener in listeners)


class Desk:
    """Sequences of callers who listen, and the faults that end them."""

    def __init__(self, *, device_answers: bool = True) -> None:
        self.responses: dict[int, Response] = {}
        self.listeners: dict[int, Listener] = {}
        self.asked_device = 0
        self._device_answers = device_answers
        self.faults = Faults(self.responses, self._release, self._answers)

    def sequence(self) -> Sequence:
        sequence = Sequence(len(self.listeners) + 1, Prompt((1,), ()), 4, owner="somebody")
        listener = self.listeners[sequence.sequence_id] = Listener()
        generation = Generation(GenerationRequest(said("hello")), listener)
        constraint = Constraint(Shape(NO_TOOLS), None)
        response = Response(generation, Detokenizer(None, None), constraint)  # type: ignore[arg-type]
        self.responses[sequence.sequence_id] = response
        return sequence

    def told(self, sequence: Sequence) -> list[str]:
        """Codes of the errors that a caller got."""
        events = list(self.listeners[sequence.sequence_id].events.queue)
        return [event.error.code for event in events if isinstance(event, Failed)]

    def _release(self, sequence: Sequence) -> None:
        assert sequence.owner is None, "what failed is nobody's prefix"
        del self.responses[sequence.sequence_id]

    def _answers(self) -> bool:
        self.asked_device += 1
        return self._device_answers


def test_a_sound_that_fails_ends_all_who_wait_for_it_once() -> None:
    desk = Desk()
    first, second, other = (desk.sequence() for _ in range(3))
    sound, windows = Audio(np.zeros(160, np.float32)), [RuntimeError("one"), RuntimeError("two")]
    desk.faults.fail([(sound, error) for error in windows], lambda _: [first, second])
    assert [desk.told(each) for each in (first, second, other)] == [
        ["PROCESSING_ERROR"],
        ["PROCESSING_ERROR"],
        [],
    ]
    assert not desk.faults.is_device_lost


@pytest.mark.parametrize("kind", ["together", "alone", "upkeep", "request"])
def test_a_device_that_no_longer_answers_is_lost_whatever_has_failed(kind: str) -> None:
    desk = Desk(device_answers=False)
    sequence, listener = desk.sequence(), Listener()

    def fails(*_: object) -> None:
        raise RuntimeError("device lost")

    match kind:
        case "together":
            desk.faults.together([sequence], fails, lambda one: [one])
        case "alone":
            desk.faults.alone(sequence, fails)
        case "upkeep":
            desk.faults.upkeep(fails)
        case "request":
            desk.faults.request(Generation(GenerationRequest(said("a")), listener), fails)
            assert isinstance(listener.all()[-1], Failed)
    assert desk.faults.is_device_lost
    assert desk.told(sequence) == (["PROCESSING_ERROR"] if kind in ("together", "alone") else [])


def test_a_request_at_fault_itself_says_nothing_of_the_device() -> None:
    desk, listener = Desk(device_answers=False), Listener()

    def refuses() -> None:
        raise BadInput("no")

    desk.faults.request(Generation(GenerationRequest(said("a")), listener), refuses)
    assert isinstance(listener.all()[-1], Failed)
    assert (desk.asked_device, desk.faults.is_device_lost) == (0, False)


def test_a_token_that_cannot_be_delivered_is_not_delivered_twice() -> None:
    desk = Desk()
    tried: list[int] = []
    sequence = desk.sequence()

    def deliver() -> None:
        tried.append(1)
        raise torch.OutOfMemoryError("short")

    desk.faults.alone(sequence, deliver)
    assert (len(tried), desk.told(sequence)) == (1, ["GPU_OOM"])
