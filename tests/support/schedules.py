"""Random schedules: sessions join, talk, are cut off and leave, and stay themselves.

Each session's greedy tokens are compared with plain `generate()` on its whole conversation,
on a copy of the model. Differences count where the reference's two best logits are more than
1e-3 apart.
"""

import itertools
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.support.reduced import Reduced
from voxtral_worker.engine.conversation import (
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
)
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.generation import Generation
from voxtral_worker.engine.kv_cache import Admission, KvCache
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.prompt import PromptEncoder
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.settings import Settings

MOST_TOKENS = 8
SURE = 1e-3
WAIT_S = 300.0
BLOCKS = (90, 140, 2000)
TEXTS = ("hello", "turn on the kitchen light", "what time is it", "sing a song", "call one two")


@dataclass(frozen=True)
class Said:
    """One turn: a text or the number of a sound; `cut` deltas of the answer are waited for."""

    part: str | int
    cut: int | None = None


@dataclass(frozen=True)
class Visit:
    """One session: when it joins, in ms, and what it says."""

    joins_ms: int
    turns: tuple[Said, ...]


@dataclass
class Answered:
    """A turn with the tokens that were delivered, and how it ended."""

    conversation: Conversation
    sounds: tuple[int, ...]
    cut: int | None
    tokens: tuple[int, ...] = ()
    ended: Finished | Failed | None = None


def visits(most_sessions: int) -> st.SearchStrategy[list[Visit]]:
    """Schedules of 1 to `most_sessions` sessions of one to three turns."""
    part = st.one_of(st.sampled_from(TEXTS), st.integers(0, 3))
    turn = st.builds(Said, part, st.sampled_from([None, None, None, 1, 3]))
    turns = st.lists(turn, min_size=1, max_size=3).map(tuple)
    talk = st.builds(Visit, st.integers(0, 600), turns)
    return st.lists(talk, min_size=1, max_size=most_sessions)


def sound(number: int) -> np.ndarray:
    """Half a second of noise and more, the same for the same number."""
    rng = np.random.default_rng(number)
    return (0.1 * rng.standard_normal(8000 + 4000 * number)).astype(np.float32)


class WatchedCache(KvCache):
    """Fails when blocks are given to two sequences, or to another session than its own."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self._running: set[int] = set()
        self._written_by: dict[int, str | None] = {}

    def admit(self, owner: str | None, keys: Any, tokens: int) -> Admission | None:
        """As KvCache; looks at who had the blocks."""
        admission = super().admit(owner, keys, tokens)
        if admission is not None:
            assert not self._running & set(admission.blocks), "a block is given out twice"
            cached = -(-admission.cached_tokens // 16)
            for block in admission.blocks[:cached]:
                assert self._written_by[block] == owner, "another session's block is read"
            self._running |= set(admission.blocks)
            self._written_by |= dict.fromkeys(admission.blocks, owner)
        return admission

    def release(self, owner: str | None, blocks: tuple[int, ...], keys: Any = ()) -> None:
        """As KvCache."""
        self._running -= set(blocks)
        super().release(owner, blocks, keys)


class Reference:
    """Greedy tokens and their margins by a model that no engine touches.

    `generate()` makes them, or where the tail is sampled the reduced reference.
    """

    def __init__(
        self, model: Any, loaded: LoadedModel, sure: float = SURE, window_tail: str = EXACT
    ) -> None:
        """Logits nearer to each other than `sure` may change places."""
        self.sure = sure
        self._model = model
        self._loaded = loaded
        self._encoder = PromptEncoder(loaded.tokenizer)
        self.window_tail = window_tail
        self._known: dict[object, tuple[list[int], list[float]]] = {}

    def tokens(self, answered: Answered) -> tuple[list[int], list[float]]:
        """The tokens of a turn, and how far the best logit was before the second."""
        ids = self._encoder.encode(answered.conversation, 100_000).ids
        key = ids, answered.sounds
        if key not in self._known:
            make = self._generate if self.window_tail == EXACT else self._reduce
            self._known[key] = make(ids, answered.sounds)
        return self._known[key]

    def _reduce(
        self, prompt: tuple[int, ...], sounds: tuple[int, ...]
    ) -> tuple[list[int], list[float]]:
        extractor = self._loaded.processor.feature_extractor
        reduced = Reduced(self._model, extractor, self._encoder.audio_token_id)
        samples = [sound(number) for number in sounds]
        tokens, logits = reduced.logits(prompt, samples, MOST_TOKENS, self._loaded.stop_ids)
        best = logits.topk(2).values
        return tokens, (best[:, 0] - best[:, 1]).tolist()

    @torch.inference_mode()
    def _generate(
        self, prompt: tuple[int, ...], sounds: tuple[int, ...]
    ) -> tuple[list[int], list[float]]:
        device, dtype = self._loaded.device, self._loaded.dtype
        ids = torch.tensor([prompt], device=device)
        features = [
            self._loaded.processor.feature_extractor(
                sound(number), sampling_rate=16_000, return_tensors="pt"
            )["input_features"]
            for number in sounds
        ]
        audio = {"input_features": torch.cat(features).to(device, dtype)} if features else {}
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


@dataclass
class Schedule:
    """Sessions on threads of their own, against one engine."""

    engine: Engine
    results: dict[str, list[Answered]] = field(default_factory=dict)

    def run(self, sessions: list[Visit]) -> None:
        """Until all are over."""
        threads = [
            threading.Thread(target=self._talk, args=(str(number), talk))
            for number, talk in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _talk(self, name: str, talk: Visit) -> None:
        time.sleep(talk.joins_ms / 1000)
        history: tuple[Exchange, ...] = ()
        sounds: tuple[int, ...] = ()
        self.results[name] = []
        for said in talk.turns:
            if isinstance(said.part, int):
                user = UserTurn((Audio(sound(said.part)),))
                sounds += (said.part,)
            else:
                user = UserTurn((said.part,))
            answered = Answered(Conversation(user, history), sounds, said.cut)
            self._ask(name, answered)
            self.results[name].append(answered)
            history += (Exchange(user, AssistantTurn(answered.tokens)),)

    def _ask(self, name: str, answered: Answered) -> None:
        events: queue.Queue[Any] = queue.Queue()
        request = GenerationRequest(
            answered.conversation, Sampling(0.0, 1.0, MOST_TOKENS), owner=name
        )
        generation: Generation = self.engine.submit(request, events.put)
        for count in itertools.count(1):
            event = events.get(timeout=WAIT_S)
            if isinstance(event, Finished | Failed):
                answered.ended = event
                return
            # Nothing that comes after a cancel counts as delivered.
            if isinstance(event, Delta) and not generation.is_cancelled:
                answered.tokens += event.token_ids
                if count == answered.cut:
                    generation.cancel()


def agree(
    answered: Answered, tokens: list[int], margins: list[float], stop: frozenset[int], sure: float
) -> bool:
    """Equal as far as the reference is sure; after a near tie everything may differ."""
    for place, (token, margin) in enumerate(zip(tokens, margins, strict=True)):
        if margin < sure or token in stop:
            return True
        if place >= len(answered.tokens):
            # Cut off; or half a character at the end, which is not delivered.
            return answered.cut is not None or place >= MOST_TOKENS - 4
        if answered.tokens[place] != token:
            return False
    return True


def check(
    loaded: LoadedModel, reference: Reference, sessions: list[Visit], blocks: int
) -> Counter[str]:
    """Run a schedule and compare every answer. Returns counts; raises AssertionError."""
    tail = reference.window_tail
    settings = Settings(max_batch_size=8, response_cache_size=0, window_tail=tail)
    core = EngineCore(loaded, settings)
    # Few blocks: prefixes are evicted, sequences wait for each other.
    core.scheduler.cache = cache = WatchedCache(blocks)
    core.outputs.is_runaway = lambda token_ids: False
    engine = Engine(core)
    schedule = Schedule(engine)
    engine.start()
    schedule.run(sessions)
    engine.stop()
    counts: Counter[str] = Counter()
    for answers in schedule.results.values():
        for answered in answers:
            assert isinstance(answered.ended, Finished), answered.ended
            tokens, margins = reference.tokens(answered)
            assert agree(answered, tokens, margins, loaded.stop_ids, reference.sure), (
                answered,
                tokens,
            )
            usage = answered.ended.usage
            if blocks == max(BLOCKS) and answered.conversation.history:
                assert usage.cached_tokens > 0
            counts += Counter(
                turns=1,
                audio=isinstance(answered.conversation.user.parts[0], Audio),
                cut=answered.ended.finish_reason == "interrupted",
                reused=usage.cached_tokens > 0,
                evicted=bool(answered.conversation.history) and not usage.cached_tokens,
            )
    assert cache.free + cache.kept == blocks
    return counts
