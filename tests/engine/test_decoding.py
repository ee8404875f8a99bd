"""Decode steps of fixed shapes give what packed steps give."""

import queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from voxtral_worker.engine.attention import open_batch, paged_attention
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.decoding import DecodeSteps, Row
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.settings import Settings

TEXTS = ("hello", "what time is it", "turn on the kitchen light", "sing a song", "good night")


def answers(loaded: LoadedModel, **changes: Any) -> list[list[int]]:
    """Tokens of several answers of different length that are made side by side."""
    settings = Settings(response_cache_size=0, max_batch_size=6, **changes)
    engine = Engine(EngineCore(loaded, settings))
    engine.start()
    said: list[list[int]] = []
    done: queue.Queue[object] = queue.Queue()
    sound = (0.1 * np.random.default_rng(5).standard_normal(20_000)).astype(np.float32)
    parts: list[str | Audio] = [*TEXTS, Audio(sound)]
    for number, part in enumerate(parts):
        tokens: list[int] = []
        said.append(tokens)

        def listener(event: object, tokens: list[int] = tokens) -> None:
            if isinstance(event, Delta):
                tokens += event.token_ids
            if isinstance(event, Finished | Failed):
                done.put(event)

        conversation = Conversation(UserTurn((part,)))
        engine.submit(GenerationRequest(conversation, Sampling(0.0, 1.0, 4 + 3 * number)), listener)
    for _ in said:
        assert isinstance(done.get(timeout=60), Finished)
    engine.stop()
    return said


@pytest.mark.parametrize("window_tail", ["exact", "sampled"])
def test_fixed_shapes_choose_the_tokens_of_packed_steps(
    loaded: LoadedModel, window_tail: str
) -> None:
    expected = answers(loaded, window_tail=window_tail)
    with torch.compiler.set_stance("force_eager"):
        fixed = answers(loaded, enable_torch_compile=True, window_tail=window_tail)
    assert fixed == expected
    assert all(expected)


def test_a_fixed_step_attends_as_its_weights_say() -> None:
    torch.manual_seed(1)
    keys, values = torch.randn(5, 16, 2, 32), torch.randn(5, 16, 2, 32)
    weights = 3 * torch.rand(5, 16)
    query, own = torch.randn(1, 4, 1, 32), torch.randn(1, 2, 1, 32)

    def forward(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        module = SimpleNamespace(layer_idx=0)
        q, k, v = (each.expand(-1, -1, len(ids), -1) for each in (query, own, own))
        attended, _ = paged_attention(module, q, k, v, None, scaling=0.2)
        return torch.cat([attended[0].flatten(1), positions[:, None].float()], dim=1)

    steps = DecodeSteps(
        forward,
        [keys],
        [values],
        most_rows=2,
        most_tokens=64,
        spare_block=4,
        log_weights=weights,
    )
    row = Row(7, 20, torch.tensor([3, 1]), skipped=100)
    with torch.inference_mode():
        got = steps.run([row])[0]
    context = slice(None, 21)
    k, v = (each[[3, 1]].flatten(0, 1)[context].transpose(0, 1)[None] for each in (keys, values))
    bias = weights[[3, 1]].flatten()[context]
    expected = F.scaled_dot_product_attention(
        query, k, v, attn_mask=bias[None], scale=0.2, enable_gqa=True
    )
    assert torch.allclose(got[:-1], expected.flatten(), atol=1e-5)
    # Its index is 20; its position counts what was left out before it.
    assert got[-1] == 120


class Forwards:
    """A model that says what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[int]]] = []
        self.slots: list[int] = []
        self.lengths: list[int] = []

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        batch = open_batch()
        assert isinstance(batch.decodes, list)
        (group,) = batch.decodes
        self.slots = batch.slots.tolist()
        # What a row may attend to.
        self.lengths = (group.mask == 0).sum(dim=-1).flatten().tolist()
        self.calls.append((ids.tolist(), positions.tolist()))
        return torch.stack([ids, positions], dim=1)


@pytest.fixture
def cache() -> list[torch.Tensor]:
    return [torch.zeros(5, 16, 2, 4)]


def test_a_batch_is_filled_up_to_the_next_size(cache: list[torch.Tensor]) -> None:
    forwards = Forwards()
    steps = DecodeSteps(forwards, cache, cache, most_rows=6, most_tokens=64, spare_block=4)
    rows = [
        Row(7, 3, torch.tensor([2])),
        Row(8, 17, torch.tensor([0, 3])),
        Row(9, 0, torch.tensor([1])),
    ]
    assert steps.run(rows).tolist() == [[7, 3], [8, 17], [9, 0]]
    assert forwards.calls == [([7, 8, 9, 0], [3, 17, 0, 0])]
    assert forwards.slots == [2 * 16 + 3, 3 * 16 + 1, 16, 4 * 16]
    assert forwards.lengths == [4, 18, 1, 1]


def test_every_size_is_prepared_the_largest_first(cache: list[torch.Tensor]) -> None:
    forwards = Forwards()
    DecodeSteps(forwards, cache, cache, most_rows=6, most_tokens=64, spare_block=4).prepare()
    assert [len(ids) for ids, _ in forwards.calls] == [6, 4, 2, 1]
