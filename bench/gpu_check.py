"""What a GPU must show: the right tokens, then how far each step is from its floor.

Without a CUDA device it says so and does nothing. Weights of the released shape are random
and made on the spot; speed does not depend on them.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.conversations import ask
from bench.random_model import RELEASED, Shape, write_random_model
from bench.schedules import BLOCKS, Reference, Said, Talk, check
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn, windows_of
from voxtral_worker.engine.decoding import Row
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.kv_cache import blocks_for
from voxtral_worker.engine.model import load_model
from voxtral_worker.engine.request import Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

CONTEXT_TOKENS = 2000
BATCHES = (1, 16, 64)
REPEATS = 20
NEW_TOKENS = 64
SECOND_OF_SPEECH = (0.1 * np.random.default_rng(1).standard_normal(16_000)).astype(np.float32)
# bf16 keeps eight bits: two logits this near may change places.
SURE_IN_BF16 = 0.25


@dataclass(frozen=True)
class Floors:
    """What nothing on this device can beat."""

    bytes_per_s: float
    operations_per_s: float

    def decode_s(self, weights: int, cache_bytes: int) -> float:
        """A decode step reads the language model and the contexts once."""
        return (weights + cache_bytes) / self.bytes_per_s


def timed(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median seconds of a piece of work, with the device's queue empty before and after."""
    times = []
    for _ in range(repeats + 2):
        _synchronize(device)
        started_s = time.perf_counter()
        work()
        _synchronize(device)
        times.append(time.perf_counter() - started_s)
    return sorted(times[2:])[repeats // 2]


def measure_floors(device: torch.device, size: int = 8192) -> Floors:
    """Copy bandwidth, bytes read and written, and the rate of a bf16 matrix product."""
    source = torch.empty(size * size * 4, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copy_s = timed(lambda: target.copy_(source), device)
    matrix = torch.randn(size, size, device=device).to(torch.bfloat16)
    product_s = timed(lambda: matrix @ matrix, device)
    return Floors(2 * source.nbytes / copy_s, 2 * size**3 / product_s)


def check_tokens(device: torch.device) -> None:
    """The embedded model on the device beside plain generate(). Raises AssertionError."""
    talks = [
        Talk(0, (Said(0), Said("hello", cut=1), Said(2))),
        Talk(50, (Said("turn on the kitchen light"), Said(1))),
        Talk(100, (Said(3), Said("what time is it"))),
    ]
    for dtype, sure in (("float32", 1e-3), ("bfloat16", SURE_IN_BF16)):
        settings = Settings(model_id=str(EMBEDDED_MODEL), device=device.type, dtype=dtype)
        loaded = load_model(settings)
        reference = Reference(load_model(settings).model, loaded, sure)
        for blocks in BLOCKS:
            counts = check(loaded, reference, talks, blocks)
            print(f"tokens of the embedded model in {dtype}, {blocks} blocks: equal, {counts}")


def check_speed(
    device: torch.device, shape: Shape, settings: Settings, batches: tuple[int, ...] = BATCHES
) -> None:
    """Print the table for one shape; the checkpoint is written, loaded and warmed up."""
    floors = measure_floors(device, 8192 if device.type == "cuda" else 256)
    print(f"\ncopy {floors.bytes_per_s / 1e9:.0f} GB/s", end="")
    print(f" · bf16 products {floors.operations_per_s / 1e12:.1f} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(Path(folder), shape, device)
        shards = list(Path(folder).glob("*.safetensors"))
        _free(device)
        started_s = time.monotonic()
        loaded = load_model(replace(settings, model_id=folder))
        print(f"loaded from {len(shards)} shards in {time.monotonic() - started_s:.1f} s")
    engine = Engine(loaded, settings)
    # Random weights would say anything, and never when to stop.
    delivery = engine._delivery
    delivery.stop_ids, delivery.is_runaway = frozenset(), lambda token_ids: False
    started_s = time.monotonic()
    engine.start()
    engine.warm_up()
    print(f"warm after {time.monotonic() - started_s:.1f} s", flush=True)
    print("\n| step | took | floor | ratio |\n| --- | --- | --- | --- |")
    weights = _language_bytes(loaded.model)
    for batch in batches:
        cache = batch * CONTEXT_TOKENS * engine._runner.bytes_per_token
        took_s = timed(_decode_step(engine, batch), device)
        _line(
            f"decode, batch {batch}, {CONTEXT_TOKENS} tokens each", took_s, floors, weights, cache
        )
    _first_token(engine, loaded.model, floors, weights)
    _many(engine, max(batches))
    engine.stop()


def _decode_step(engine: Engine, batch: int) -> Callable[[], object]:
    """One decode of sequences that own blocks of their own, sampling included."""
    runner = engine._runner
    width = blocks_for(CONTEXT_TOKENS + 1)
    rows = [
        Row(5, CONTEXT_TOKENS, (torch.arange(width) + i * width) % runner.blocks)
        for i in range(batch)
    ]

    @torch.inference_mode()
    def step() -> object:
        assert runner._steps is not None
        return runner._steps.run(rows).argmax(-1).tolist()

    return step


def _first_token(engine: Engine, model: Any, floors: Floors, weights: int) -> None:
    """From the end of a 3 s turn to its first delta, beside encoder, prefill and one decode."""

    def first_s() -> float:
        sound = np.tile(SECOND_OF_SPEECH, 3)
        conversation = Conversation(UserTurn((Audio(sound),)), transcribe=True)
        return ask(engine, GenerationRequest(conversation, Sampling(0, 1, 8))).first_s

    took_s = sorted(first_s() for _ in range(REPEATS + 2))[REPEATS // 2]
    encoder = sum(p.numel() for p in model.model.audio_tower.parameters())
    operations = 2 * 1500 * encoder + weights * 390
    floor_s = operations / floors.operations_per_s + floors.decode_s(weights, 0)
    ratio = took_s / floor_s
    print(f"| end of turn to first token, alone | {_ms(took_s)} | {_ms(floor_s)} | {ratio:.2f} |")


def _many(engine: Engine, count: int) -> None:
    """Spoken contexts of about 2,000 tokens, all at once. Raises the error of one that fails."""
    done: list[object] = []
    started_s = time.monotonic()
    for _ in range(count):
        sound = np.tile(SECOND_OF_SPEECH, 150)
        conversation = Conversation(UserTurn(windows_of(sound)))
        request = GenerationRequest(conversation, Sampling(0, 1, NEW_TOKENS))
        engine.submit(
            request, lambda e: done.append(e) if isinstance(e, Finished | Failed) else None
        )
    most = 0
    while len(done) < count:
        most = max(most, engine.running)
        time.sleep(0.01)
    took_s = time.monotonic() - started_s
    for event in done:
        if isinstance(event, Failed):
            raise event.error
    print(f"\n{len(done)} sequences of 1,880 tokens and {NEW_TOKENS} new ones: {took_s:.1f} s,")
    print(f"at most {most} side by side", flush=True)


def _line(name: str, took_s: float, floors: Floors, weights: int, cache_bytes: int) -> None:
    floor_s = floors.decode_s(weights, cache_bytes)
    print(f"| {name} | {_ms(took_s)} | {_ms(floor_s)} | {took_s / floor_s:.2f} |", flush=True)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _language_bytes(model: Any) -> int:
    """What a decode step reads: the layers and the head, not the embedding's table."""
    parameters = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    return sum(parameter.nbytes for parameter in parameters)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def run() -> None:
    """Everything, on the first CUDA device."""
    if not torch.cuda.is_available():
        print("gpu-check: skipped, this machine has no CUDA device that PyTorch can use")
        return
    device = torch.device("cuda")
    print(f"\nOn {torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    check_tokens(device)
    for compiles in (False, True):
        print(f"\nENABLE_TORCH_COMPILE={str(compiles).lower()}")
        settings = Settings(
            device="cuda",
            max_batch_size=max(BATCHES),
            max_context_tokens=4096,
            enable_torch_compile=compiles,
            response_cache_size=0,
        )
        check_speed(device, RELEASED, settings)
        _free(device)
    sys.stdout.flush()


if __name__ == "__main__":
    run()
