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
    settings = Settings(
        model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32", response_cache_size=0
    )
    loaded, reference = load_model(settings), load_model(settings).model
    # Every answer is made as long as the others', whatever the model would say.
    engine = Engine(loaded, settings)
    engine._stop_ids = frozenset()
    engine._is_runaway = lambda token_ids: False
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
    def generate(count: int, *, is_audio: bool, at_once: int) -> float:
        started_s = time.monotonic()
        for _ in range(0, count, at_once):
            if is_audio:
                inputs = loaded.processor.apply_transcription_request(
                    audio=[sound] * at_once,
                    model_id="v",
                    format=["wav"] * at_once,
                    sampling_rate=16_000,
                )
            else:
                chat = [{"role": "user", "content": TEXT}]
                inputs = loaded.processor.apply_chat_template([chat] * at_once)
            reference.generate(
                **inputs, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS
            )
        return time.monotonic() - started_s

    print(f"\nGroups of requests, {TOKENS} new tokens each, float32, one thread: ms of the whole")
    print(f"group, medians of {ROUNDS} interleaved rounds\n")
    print("| requests | generate(), one by one | generate(), padded batch | engine | vs. batch |")
    print("| --- | --- | --- | --- | --- |")
    for is_audio, count in ((True, 1), (True, 8), (True, 16), (False, 1), (False, 16)):
        single, padded, ours = _interleaved(
            partial(generate, count, is_audio=is_audio, at_once=1),
            partial(generate, count, is_audio=is_audio, at_once=count),
            partial(ask, count, is_audio=is_audio),
        )
        kind = "audio" if is_audio else "text"
        ratio = padded / ours
        print(
            f"| {kind} × {count} | {single:.0f} | {padded:.0f} | {ours:.0f} | {ratio:.2f} |",
            flush=True,
        )
    engine.stop()


def _interleaved(*sides: Callable[[], float]) -> list[float]:
    rounds = [[side() for side in sides] for _ in range(ROUNDS)]
    return [1000 * statistics.median(column) for column in zip(*rounds, strict=True)]
