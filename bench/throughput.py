"""The engine beside plain `generate()`: same weights, same requests, in turn, in one process."""

import queue
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import load_model
from voxtral_worker.engine.request import Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

ROUNDS = 5
TOKENS = 32
TEXT = "set a timer for ten minutes"


def run() -> None:
    """Print the table: medians of whole groups, and their ratio."""
    torch.set_num_threads(1)
    loaded = load_model(Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32"))
    # Every answer is made as long as the others', whatever the model would say.
    engine = Engine(loaded, Settings(response_cache_size=0))
    engine._stop_ids = frozenset()
    engine.start()
    rng = np.random.default_rng(1)
    sound = (0.1 * rng.standard_normal(48_000)).astype(np.float32)

    def ask(count: int, *, is_audio: bool) -> float:
        started_s, done = time.monotonic(), queue.Queue[bool]()

        def listener(event: object) -> None:
            if isinstance(event, Finished | Failed):
                done.put(True)

        for _ in range(count):
            part = Audio(sound) if is_audio else TEXT
            conversation = Conversation(UserTurn((part,)), transcribe=is_audio)
            engine.submit(GenerationRequest(conversation, Sampling(0, 1, TOKENS)), listener)
        for _ in range(count):
            done.get()
        return time.monotonic() - started_s

    @torch.inference_mode()
    def generate(count: int, *, is_audio: bool) -> float:
        started_s = time.monotonic()
        for _ in range(count):
            if is_audio:
                inputs = loaded.processor.apply_transcription_request(
                    audio=[sound], model_id="v", format=["wav"], sampling_rate=16_000
                )
            else:
                inputs = loaded.processor.apply_chat_template([{"role": "user", "content": TEXT}])
            loaded.model.generate(
                **inputs, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS
            )
        return time.monotonic() - started_s

    print(f"\nGroups of requests, {TOKENS} new tokens each, float32, one thread, ms (medians of")
    print(f"{ROUNDS} interleaved rounds); answers that repeat themselves end early in the engine\n")
    print("| requests | one after the other by generate() | engine | ratio |")
    print("| --- | --- | --- | --- |")
    for is_audio, count in ((True, 1), (True, 8), (False, 1), (False, 16)):
        plain, ours = _interleaved(
            partial(generate, count, is_audio=is_audio), partial(ask, count, is_audio=is_audio)
        )
        kind = "audio" if is_audio else "text"
        print(f"| {kind} × {count} | {plain:.0f} | {ours:.0f} | {plain / ours:.2f} |", flush=True)
    engine.stop()


def _interleaved(plain: Callable[[], float], ours: Callable[[], float]) -> tuple[float, float]:
    pairs = [(plain(), ours()) for _ in range(ROUNDS)]
    first, second = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    return first, second
