"""The engine compared with `generate()`.

Same weights, same requests, in turn, in one process, on one core.
"""

import os
import queue
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from tests.support.endless import endless_engine
from tests.support.sounds import clips
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.engine.request import Delta, Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

ROUNDS = 7
WAIT_S = 600.0
TOKENS = 32
TEXT = "set a timer for ten minutes"
# A sentence, filled up to 3 s with silence. Of noise the model writes down no word.
SOUND = np.zeros(48_000, np.float32)
_WORDS = np.frombuffer(clips()["turn on the kitchen light"], "<i2")[: len(SOUND)]
SOUND[: len(_WORDS)] = _WORDS / np.float32(32_768)
GROUPS = ((True, 1), (True, 8), (True, 16), (False, 1), (False, 16))
# Whole windows, as the other sides compute.
SETTINGS = Settings(
    model_id=str(EMBEDDED_MODEL),
    device="cpu",
    dtype="float32",
    response_cache_size=0,
    window_tail="exact",
)
FIRSTS = "first token of one audio request"


def conversation(*, is_audio: bool) -> Conversation:
    """A request of its own: audio is never the same piece twice."""
    return Conversation(UserTurn((Audio(SOUND) if is_audio else TEXT,)), transcribe=is_audio)


def ask(engine: Engine, count: int, *, is_audio: bool) -> tuple[float, float]:
    """Seconds until the first token of any and until the end of all."""
    started_s, firsts, done = time.monotonic(), queue.Queue[float](), queue.Queue[object]()

    def listener(event: object) -> None:
        if isinstance(event, Delta):
            firsts.put(time.monotonic())
        if isinstance(event, Finished | Failed):
            done.put(event)

    for _ in range(count):
        request = GenerationRequest(conversation(is_audio=is_audio), Sampling(0, 1, TOKENS))
        engine.submit(request, listener)
    for _ in range(count):
        if isinstance(event := done.get(timeout=WAIT_S), Failed):
            raise event.error
    # All have ended. If none has said a word, this fails at once.
    return firsts.get_nowait() - started_s, time.monotonic() - started_s


class Plain:
    """`generate()` of transformers, on inputs by its processor."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @torch.inference_mode()
    def generate(self, count: int, at_once: int, *, is_audio: bool, tokens: int = TOKENS) -> float:
        """Seconds for so many requests, `at_once` of them in a padded batch."""
        started_s = time.monotonic()
        for _ in range(0, count, at_once):
            self._loaded.model.generate(
                **self._inputs(at_once, is_audio=is_audio),
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
            )
        return time.monotonic() - started_s

    def _inputs(self, count: int, *, is_audio: bool) -> Any:
        processor = self._loaded.processor
        if not is_audio:
            return processor.apply_chat_template([[{"role": "user", "content": TEXT}]] * count)
        return processor.apply_transcription_request(
            audio=[SOUND] * count, model_id="v", format=["wav"] * count, sampling_rate=16_000
        )


def run() -> None:
    """Print the tables: medians of whole groups, and their ratios."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    plain = Plain(load_model(SETTINGS))
    engine = endless_engine(load_model(SETTINGS), SETTINGS)
    settings = SETTINGS.model_copy(update={"enable_torch_compile": True})
    compiled = endless_engine(load_model(settings), settings)

    print(f"\nGroups of requests, {TOKENS} new tokens each, float32, one core: ms of the whole")
    print(f"group, medians of {ROUNDS} interleaved rounds. Ratios are to the padded batch.\n")
    print("| requests | generate(), one by one | generate(), padded batch", end=" ")
    print("| engine | engine, compiled | engine / compiled |")
    print("| --- | --- | --- | --- | --- | --- |")
    for is_audio, count in GROUPS:
        figures = _interleaved(
            partial(plain.generate, count, 1, is_audio=is_audio),
            partial(plain.generate, count, count, is_audio=is_audio),
            lambda: ask(engine, count, is_audio=is_audio)[1],  # noqa: B023 - called at once
            lambda: ask(compiled, count, is_audio=is_audio)[1],  # noqa: B023
        )
        ratios = " / ".join(f"{figures[1] / figure:.2f}" for figure in figures[2:])
        cells = " | ".join(f"{figure:.0f}" for figure in figures)
        print(f"| {'audio' if is_audio else 'text'} × {count} | {cells} | {ratios} |", flush=True)
    firsts = _interleaved(
        partial(plain.generate, 1, 1, is_audio=True, tokens=1),
        lambda: ask(engine, 1, is_audio=True)[0],
        lambda: ask(compiled, 1, is_audio=True)[0],
    )
    print(f"\nms to the {FIRSTS}: generate() {firsts[0]:.0f}, engine {firsts[1]:.0f}", end="")
    print(f" ({firsts[1] / firsts[0]:.2f} ×), compiled {firsts[2]:.0f}", end="")
    print(f" ({firsts[2] / firsts[0]:.2f} ×)")
    for side in (engine, compiled):
        side.stop()


def _interleaved(*sides: Callable[[], float]) -> list[float]:
    rounds = [[side() for side in sides] for _ in range(ROUNDS)]
    return [1000 * statistics.median(column) for column in zip(*rounds, strict=True)]
