"""Whatever runs beside it, whatever was cached: a session's greedy tokens are its own.

The reference is plain `generate()` on the whole conversation, on a copy of the model.
Differences count where the reference's two best logits are more than 1e-3 apart.
"""

import queue
import threading
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.settings import Settings

SCHEDULES = 8
MOST_TOKENS = 8
TEXTS = ("hello", "turn on the kitchen light", "what time is it", "sing a song", "call one two")

turns = st.one_of(st.sampled_from(TEXTS), st.integers(0, 3))
sessions = st.lists(st.lists(turns, min_size=1, max_size=3), min_size=1, max_size=5)


def sound(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return (0.1 * rng.standard_normal(8000 + 4000 * number)).astype(np.float32)


class Reference:
    """Greedy tokens and their margins by a model that no engine touches."""

    def __init__(self, model: Any, loaded: LoadedModel) -> None:
        self._model = model
        self._loaded = loaded
        self._encoder = PromptEncoder(loaded.tokenizer)
        self._known: dict[tuple[object, ...], tuple[list[int], list[float]]] = {}

    def tokens(
        self, said: list[object], conversation: Conversation
    ) -> tuple[list[int], list[float]]:
        key = tuple(said)
        if key not in self._known:
            self._known[key] = self._generate(said, conversation)
        return self._known[key]

    @torch.inference_mode()
    def _generate(
        self, said: list[object], conversation: Conversation
    ) -> tuple[list[int], list[float]]:
        ids = torch.tensor([self._encoder.encode(conversation, 100_000).ids])
        sounds = [sound(part) for part in said if isinstance(part, int)]
        features = [
            self._loaded.processor.feature_extractor(
                samples, sampling_rate=16_000, return_tensors="pt"
            )["input_features"]
            for samples in sounds
        ]
        audio = {"input_features": torch.cat(features)} if features else {}
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **audio,
            do_sample=False,
            max_new_tokens=MOST_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = output.sequences[0, ids.shape[1] :].tolist()
        best = [row[0].topk(2).values for row in output.logits]
        return tokens, [float(pair[0] - pair[1]) for pair in best]


def talk(engine: Engine, name: str, said: list[object], results: dict[str, Any]) -> None:
    """One session: every turn after the answer to the one before."""
    history: tuple[Exchange, ...] = ()
    answers = []
    for part in said:
        user = UserTurn((Audio(sound(part)),) if isinstance(part, int) else (str(part),))
        conversation = Conversation(user, history)
        events: queue.Queue[Any] = queue.Queue()
        request = GenerationRequest(conversation, Sampling(0.0, 1.0, MOST_TOKENS), owner=name)
        engine.submit(request, events.put)
        tokens: list[int] = []
        while not isinstance(event := events.get(timeout=120), Finished | Failed):
            if isinstance(event, Delta):
                tokens += event.token_ids
        answers.append((conversation, tokens, event))
        history += (Exchange(user, AssistantTurn(tuple(tokens))),)
    results[name] = answers


def agree(ours: list[int], theirs: list[int], margins: list[float], stop: frozenset[int]) -> bool:
    """Equal as far as the reference is sure; after a near tie everything may differ."""
    for place, (token, margin) in enumerate(zip(theirs, margins, strict=True)):
        if margin < 1e-3 or token in stop:
            return True
        # Tokens that are half a character at the end are not delivered.
        if place >= len(ours):
            return place >= MOST_TOKENS - 4
        if ours[place] != token:
            return False
    return True


@settings(
    max_examples=SCHEDULES,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(everyone=sessions, blocks=st.sampled_from([90, 140, 2000]), cancels=st.integers(0, 2))
def test_greedy_tokens_do_not_depend_on_company_cache_or_eviction(
    loaded: LoadedModel,
    reference: Any,
    everyone: list[list[object]],
    blocks: int,
    cancels: int,
) -> None:
    engine = Engine(loaded, Settings(max_batch_size=4, response_cache_size=0))
    # Few blocks: prefixes are evicted, sequences wait for each other.
    engine._cache._free = list(range(blocks))
    engine._cache.total = blocks
    engine._is_runaway = lambda token_ids: False
    engine.start()
    results: dict[str, Any] = {}
    threads = [
        threading.Thread(target=talk, args=(engine, str(number), said, results))
        for number, said in enumerate(everyone)
    ]
    for thread in threads:
        thread.start()
    for _ in range(cancels):
        conversation = Conversation(UserTurn((Audio(sound(1)),)))
        request = GenerationRequest(conversation, Sampling(0.9, 1.0, 500), owner="cancelled")
        engine.submit(request, lambda _: None).cancel()
    for thread in threads:
        thread.join()
    engine.stop()
    checker = Reference(reference, loaded)
    for name, said in enumerate(everyone):
        for number, (conversation, tokens, event) in enumerate(results[str(name)]):
            assert isinstance(event, Finished), event
            theirs, margins = checker.tokens([*said[: number + 1], str(name)], conversation)
            assert agree(tokens, theirs, margins, loaded.stop_ids), (said[: number + 1], tokens)
            if number and blocks == 2000:
                assert event.usage.cached_tokens > 0
    assert engine._cache.free + engine._cache.kept == blocks


def test_a_turn_prefills_only_what_it_added(loaded: LoadedModel) -> None:
    engine = Engine(loaded, Settings(response_cache_size=0))
    engine.start()
    results: dict[str, Any] = {}
    said: list[object] = [0, "hello", 1, "what time is it"]
    talk(engine, "me", said, results)
    engine.stop()
    prompt = answer = 0
    for _, _, event in results["me"]:
        # The last token of an answer is never fed back, so it is not in the cache.
        assert prompt <= event.usage.cached_tokens <= prompt + answer
        prompt, answer = event.usage.prompt_tokens, event.usage.completion_tokens
    assert prompt > 2 * 375


def test_a_session_that_is_gone_leaves_no_blocks(loaded: LoadedModel) -> None:
    engine = Engine(loaded, Settings())
    engine.start()
    results: dict[str, Any] = {}
    talk(engine, "me", ["hello"], results)
    assert engine._cache.kept > 0
    engine.forget("me")
    talk(engine, "you", ["hello"], results)
    engine.stop()
    assert set(engine._cache._kept) <= {"you"}
