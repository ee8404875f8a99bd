"""Embeddings that nothing computes with are off the device."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.engine.test_engine import Listener, clips, tokens_of
from tests.support.metric_values import value_of
from voxtral_worker import metrics
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import Finished, GenerationRequest, Sampling
from voxtral_worker.settings import Settings

# A tensor there has no data: reading it fails.
NOWHERE = torch.device("meta")
PLENTY = 1 << 30
ROWS_BYTES = 375 * 8 * 4
USES = ("weights", "kv_cache", "embeddings", "other")


def test_what_is_stored_in_the_cache_is_off_the_device(core: EngineCore, engine: Engine) -> None:
    core.embeddings.away = NOWHERE
    history: tuple[Exchange, ...] = ()
    spoken = [Audio(samples) for samples in clips().values()][:3]
    for audio in spoken:
        user = UserTurn((audio,))
        listener = Listener()
        request = GenerationRequest(
            Conversation(user, history), Sampling(0.0, 1.0, 24), owner="somebody"
        )
        engine.submit(request, listener)
        events = listener.all()
        assert isinstance(events[-1], Finished)
        history += (Exchange(user, AssistantTurn(tuple(tokens_of(events)))),)
    for audio in spoken:
        assert audio in core.embeddings
        with pytest.raises(NotImplementedError, match="out of meta tensor"):
            core.embeddings.rows(audio, 0, 1)
    assert core.embeddings.bytes == 0


def test_what_takes_the_memory_is_published(core: EngineCore, engine: Engine) -> None:
    embeddings, (samples, *_) = core.embeddings, clips().values()
    audio, listener = Audio(samples), Listener()
    conversation = Conversation(UserTurn((audio,)), transcribe=True)
    engine.submit(GenerationRequest(conversation, Sampling(0.0, 1.0, 4)), listener)
    listener.all()
    core.device_bytes.publish(embeddings.bytes)
    told = {use: value_of(metrics.device_bytes.labels(use)) for use in USES}
    # The cache has one block more than it gives away.
    blocks = engine.kv_tokens // 16 + 1
    assert told == {
        "weights": sum(each.nbytes for each in core.loaded.model.parameters()),
        "kv_cache": blocks * 16 * core.runner.bytes_per_token,
        "embeddings": embeddings.rows(audio, 0, 1500).nbytes,
        "other": 0,
    }


def test_on_a_cpu_nothing_moves() -> None:
    embeddings = Embeddings(torch.device("cpu"), PLENTY)
    audio, rows = Audio(np.zeros(1600, np.float32)), torch.ones(375, 8)
    embeddings.add(audio, rows)
    embeddings.put_away([audio])
    assert embeddings.rows(audio, 0, 375).data_ptr() == rows.data_ptr()
    assert embeddings.bytes == ROWS_BYTES


def idle(embeddings: Embeddings, pieces: int) -> list[Audio]:
    made = [Audio(np.zeros(1600, np.float32)) for _ in range(pieces)]
    for audio in made:
        embeddings.add(audio, torch.ones(375, 8))
    embeddings.put_away(made)
    return made


def test_those_that_were_idle_longest_lose_theirs_beyond_the_bound() -> None:
    embeddings = Embeddings(torch.device("cpu"), 2 * ROWS_BYTES)
    first, second, third = idle(embeddings, 3)
    in_use = Audio(np.zeros(1600, np.float32))
    embeddings.add(in_use, torch.ones(375, 8))
    embeddings.put_away([first])
    embeddings.trim()
    kept = [audio in embeddings for audio in (first, second, third, in_use)]
    assert kept == [True, False, True, True]
    assert value_of(metrics.embeddings_idle_bytes) == 2 * ROWS_BYTES
    # One that has none any more is put away by its other holder too.
    embeddings.put_away([second])
    embeddings.trim()
    assert embeddings.idle_bytes == 2 * ROWS_BYTES
    assert embeddings.bytes == 3 * ROWS_BYTES


def test_pieces_that_nobody_holds_count_no_more() -> None:
    embeddings = Embeddings(torch.device("cpu"), PLENTY)
    made = idle(embeddings, 3)
    tensors = [weakref.ref(embeddings.rows(audio, 0, 375)) for audio in made]
    made.pop()
    gc.collect()
    embeddings.trim()
    assert embeddings.idle_bytes == 2 * ROWS_BYTES
    made.clear()
    gc.collect()
    embeddings.trim()
    assert (embeddings.idle_bytes, embeddings.bytes) == (0, 0)
    assert [tensor() for tensor in tensors] == [None] * 3


def test_a_conversation_whose_embeddings_and_blocks_are_gone_goes_on_with_the_same_words(
    loaded: LoadedModel,
) -> None:
    def spoken(engine: Engine, owner: str | None) -> list[list[int]]:
        history: tuple[Exchange, ...] = ()
        answers = []
        for samples in list(clips().values())[:3]:
            user, listener = UserTurn((Audio(samples),)), Listener()
            asked = Conversation(user, history)
            engine.submit(GenerationRequest(asked, Sampling(0.0, 1.0, 24), owner=owner), listener)
            events = listener.all()
            assert isinstance(events[-1], Finished)
            answers.append(tokens_of(events))
            history += (Exchange(user, AssistantTurn(tuple(answers[-1]))),)
        return answers

    told = []
    for most_bytes, owner in ((PLENTY, "somebody"), (0, None)):
        before = value_of(metrics.embeddings_dropped)
        engine = Engine(
            EngineCore(
                loaded,
                Settings(device="cpu", response_cache_size=0, embeddings_cache_bytes=most_bytes),
            )
        )
        engine.start()
        told.append(spoken(engine, owner))
        engine.stop()
        dropped = value_of(metrics.embeddings_dropped) - before
        # Three pieces; the first is encoded for each of three turns, the second for two.
        assert dropped == (0 if most_bytes else 6)
    assert told[0] == told[1]


def test_a_recompute_brings_its_rows_back_to_the_device_and_no_others() -> None:
    cuda = torch.device("cuda", 0)
    with FakeTensorMode():
        embeddings = Embeddings(cuda, PLENTY)
        audio = Audio(np.zeros(1600, np.float32))
        rows = torch.empty(375, 8, device=cuda)
        embeddings.add(audio, rows)
        assert embeddings.bytes == 375 * 8 * 4
        on_device = weakref.ref(rows)
        del rows
        embeddings.put_away([audio])
        assert (on_device(), embeddings.bytes) == (None, 0)
        part = embeddings.rows(audio, 100, 110)
        assert (part.device.type, part.shape) == ("cuda", (10, 8))
        # Nothing else came with them.
        assert part.untyped_storage().nbytes() == 10 * 8 * 4
        assert embeddings.bytes == 0
