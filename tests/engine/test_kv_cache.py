"""Blocks of the KV cache: who holds them, and who never does."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import VoxtralConfig

from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, KvCache, blocks_for
from voxtral_worker.engine.model_runner import WORKING_BYTES, bytes_per_token, cache_budget


def keys(tokens: int, first: int = 0) -> list[int]:
    return list(range(first, first + tokens))


def test_a_session_computes_only_what_its_turn_added() -> None:
    cache = KvCache(8)
    admission = cache.admit("a", keys(20), 30)
    assert admission is not None
    assert admission.cached_tokens == 0
    cache.release("a", admission.blocks, keys(25))
    again = cache.admit("a", keys(40), 50)
    assert again is not None
    assert again.cached_tokens == 25
    assert again.blocks[:2] == admission.blocks[:2]


def test_one_token_is_always_left_to_compute() -> None:
    cache = KvCache(4)
    admission = cache.admit("a", keys(10), 20)
    assert admission is not None
    cache.release("a", admission.blocks, keys(10))
    again = cache.admit("a", keys(10), 20)
    assert again is not None
    assert again.cached_tokens == 9


def test_what_was_not_delivered_is_cut_off() -> None:
    cache = KvCache(8)
    admission = cache.admit("a", keys(20), 60)
    assert admission is not None
    cache.release("a", admission.blocks, keys(50))
    other_end = keys(30) + keys(20, first=1000)
    again = cache.admit("a", other_end, 60)
    assert again is not None
    assert again.cached_tokens == 30


def test_the_longest_quiet_session_goes_first() -> None:
    cache = KvCache(4)
    for owner in ("first", "second"):
        admission = cache.admit(owner, keys(16), 16)
        assert admission is not None
        cache.release(owner, admission.blocks, keys(16))
    assert cache.admit("third", keys(40), 48) is not None
    assert cache.kept == 1
    assert cache.free == 0
    cache.forget("second")
    assert cache.free == 1


def test_a_sequence_waits_while_others_run_and_keeps_its_prefix() -> None:
    cache = KvCache(4)
    mine = cache.admit("mine", keys(16), 16)
    assert mine is not None
    cache.release("mine", mine.blocks, keys(16))
    assert cache.admit(None, keys(40), 48) is not None
    assert cache.admit("mine", keys(40), 48) is None
    again = cache.admit("mine", keys(10), 16)
    assert again is not None
    assert again.cached_tokens == 9


moves = st.lists(
    st.tuples(
        st.sampled_from(["admit", "release", "drop", "forget"]),
        st.sampled_from(["a", "b", "c", None]),
        st.integers(1, 60),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(moves)
def test_a_block_is_free_or_has_exactly_one_holder(
    steps: list[tuple[str, str | None, int]],
) -> None:
    cache = KvCache(10)
    running: list[tuple[str | None, tuple[int, ...], list[int]]] = []
    written: dict[int, str | None] = {}
    for move, owner, size in steps:
        if move == "admit":
            base = (ord(owner) if owner else 1) * 1000
            wanted = keys(size, base)
            admission = cache.admit(owner, wanted, size + 5)
            if admission is not None:
                reused = admission.blocks[: blocks_for(admission.cached_tokens)]
                # What is reused was written by this owner, and by no other one since.
                assert all(written[block] == owner for block in reused)
                for block in admission.blocks:
                    written[block] = owner
                running.append((owner, admission.blocks, wanted))
        elif move == "forget" and owner is not None:
            cache.forget(owner)
        elif running:
            who, blocks, stored = running.pop(size % len(running))
            cache.release(who, blocks, stored if move == "release" else [])
        held = [block for _, blocks, _ in running for block in blocks]
        # One sequence gets all that no other holds: what is free, and what is kept.
        rest = copy.deepcopy(cache).admit(None, keys(1, 0), 16 * cache.available)
        assert rest is not None
        assert cache.available == cache.free + cache.kept
        assert sorted([*held, *rest.blocks]) == list(range(10))


def test_fifty_sessions_of_the_released_model_fit_beside_its_weights_into_24_gb() -> None:
    text = VoxtralConfig(
        text_config={
            "hidden_size": 3072,
            "num_hidden_layers": 30,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        }
    ).text_config
    a_token = bytes_per_token(text, torch.bfloat16)
    assert a_token == 120 << 10
    weights, context, card = 9_400_000_000, 600_000_000, 24 << 30
    budget = cache_budget(card - weights - context, card, weights, 0.9)
    blocks = budget // (a_token * BLOCK_TOKENS)
    cache = KvCache(blocks)
    for number in range(50):
        # What was said, and the answer that is being made, up to its longest.
        admission = cache.admit(str(number), keys(1600 - 256), 1600)
        assert admission is not None
    assert cache.kept == 0


@pytest.mark.parametrize(
    ("free", "total", "reserved", "fraction", "expected"),
    [
        # The worker's share is what bounds it, then what others have left.
        (70 << 30, 80 << 30, 9 << 30, 0.9, (72 - 9 << 30) - WORKING_BYTES),
        (10 << 30, 80 << 30, 9 << 30, 0.9, (10 << 30) - WORKING_BYTES),
        (1 << 30, 80 << 30, 9 << 30, 0.9, 0),
        (14 << 30, 24 << 30, 9 << 30, 0.3, 0),
    ],
)
def test_the_cache_takes_what_weights_and_work_leave(
    free: int, total: int, reserved: int, fraction: float, expected: int
) -> None:
    assert cache_budget(free, total, reserved, fraction) == expected
