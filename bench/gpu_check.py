"""What a GPU must show: the right tokens, then how far each step is from its floor.

Without a CUDA device it says so and does nothing. Weights of the released shape are random
and made on the spot; speed does not depend on them.
"""

import argparse
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_kernel import check_kernel
from bench.gpu_peers import check_peers
from bench.gpu_scale import SCALES, Scale, load_random, make_random
from bench.gpu_talk import (
    SECOND_OF_SPEECH,
    TURN,
    ask,
    check_long,
    check_talkers,
    percentile,
)
from bench.gpu_timing import REPEATS, device_name, free, in_ms, memory, timed
from bench.token_times import TokenTimes
from tests.support.endless import endless_core
from tests.support.schedules import BLOCKS, Reference, Said, Visit, check
from tests.support.windows import windows_of
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.decoding import Row
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.kv_cache import blocks_for
from voxtral_worker.engine.model import load_model
from voxtral_worker.engine.model_runner import ModelRunner
from voxtral_worker.engine.request import Failed, Finished, GenerationRequest, Sampling
from voxtral_worker.engine.sampler import sample_rows
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

WAIT_S = 300.0
NEW_TOKENS = 64
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


def measure_floors(device: torch.device, size: int = 8192) -> Floors:
    """Copy bandwidth, bytes read and written, and the rate of a bf16 matrix product."""
    source = torch.empty(size * size * 4, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copy_s = timed(lambda: target.copy_(source), device)
    matrix = torch.randn(size, size, device=device).to(torch.bfloat16)
    product_s = timed(lambda: matrix @ matrix, device)
    return Floors(2 * source.nbytes / copy_s, 2 * size**3 / product_s)


def check_tokens(device: torch.device, folder: Path = EMBEDDED_MODEL) -> None:
    """The embedded model on the device against plain generate(). Raises AssertionError."""
    # Also of cuDNN's convolutions, whose TF32 is on by default.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    visits = [
        Visit(0, (Said(0), Said("hello", cut=1), Said(2))),
        Visit(50, (Said("turn on the kitchen light"), Said(1))),
        Visit(100, (Said(3), Said("what time is it"))),
    ]
    for dtype, sure in (("float32", 1e-3), ("bfloat16", SURE_IN_BF16)):
        settings = Settings(model_id=str(folder), device=device.type, dtype=dtype)
        loaded = load_model(settings)
        reference = Reference(load_model(settings).model, loaded, sure)
        for blocks in BLOCKS:
            counts = check(loaded, reference, visits, blocks)
            print(f"tokens of the embedded model in {dtype}, {blocks} blocks: equal, {counts}")
            free(device)


def check_speed(scale: Scale, folder: Path, settings: Settings) -> None:
    """Print the tables for one shape; the checkpoint is made, loaded and warmed up."""
    device = scale.device
    floors = measure_floors(device, scale.floor_size)
    print(f"\ncopy {floors.bytes_per_s / 1e9:.0f} GB/s", end="")
    print(f" · bf16 products {floors.operations_per_s / 1e12:.1f} TFLOP/s")
    make_random(scale, folder)
    started_s = time.monotonic()
    loaded = load_random(scale, folder, settings)
    shards = list(folder.glob("*.safetensors"))
    print(f"loaded from {len(shards)} shards in {time.monotonic() - started_s:.1f} s")
    started_s = time.monotonic()
    core = endless_core(loaded, settings)
    engine = Engine(core)
    engine.start()
    engine.warm_up()
    print(f"warm after {time.monotonic() - started_s:.1f} s", flush=True)
    tokens = TokenTimes(engine)
    print("\n| step | took | floor | ratio |\n| --- | --- | --- | --- |")
    weights = _language_bytes(loaded.model)
    for batch in scale.batches:
        cache = batch * scale.context_tokens * core.runner.bytes_per_token
        for name, choose in (("decode", _greedily), ("decode, temperature 0.2", _warm)):
            took_s = timed(_decode_step(core.runner, batch, scale.context_tokens, choose), device)
            step = f"{name}, batch {batch}, {scale.context_tokens} tokens each"
            _line(step, took_s, floors, weights, cache)
    _first_token(engine, tokens, loaded.model, floors, weights)
    _loops(engine, tokens, scale)
    _many(engine, max(scale.batches))
    engine.stop()
    print(f"memory: {memory(device)}")


def _greedily(logits: torch.Tensor) -> object:
    return sample_rows(logits, [0.0] * len(logits), [1.0] * len(logits))


def _warm(logits: torch.Tensor) -> object:
    return sample_rows(logits, [0.2] * len(logits), [0.95] * len(logits))


def _decode_step(
    runner: ModelRunner, batch: int, context: int, choose: Callable[[torch.Tensor], object]
) -> Callable[[], object]:
    """One decode of sequences that own blocks of their own, with the choice of its tokens."""
    width = blocks_for(context + 1)
    rows = [
        Row(5, context, (torch.arange(width) + i * width) % runner.blocks) for i in range(batch)
    ]

    @torch.inference_mode()
    def step() -> object:
        assert runner.steps is not None
        return choose(runner.steps.run(rows))

    return step


def _first_token(
    engine: Engine, tokens: TokenTimes, model: Any, floors: Floors, weights: int
) -> None:
    """From the end of a 3 s turn to its first token, with encoder, prefill and one decode."""

    def first_s() -> float:
        conversation = Conversation(UserTurn((Audio(TURN),)), transcribe=True)
        return ask(engine, tokens, GenerationRequest(conversation, Sampling(0, 1, 8))).first_s

    took_s = sorted(first_s() for _ in range(REPEATS + 2))[REPEATS // 2]
    encoder = sum(p.numel() for p in model.model.audio_tower.parameters())
    operations = 2 * 1500 * encoder + weights * 390
    floor_s = operations / floors.operations_per_s + floors.decode_s(weights, 0)
    ratio = took_s / floor_s
    print(
        f"| end of turn to first token, alone | {in_ms(took_s)} | {in_ms(floor_s)} | {ratio:.2f} |"
    )


def _loops(engine: Engine, tokens: TokenTimes, scale: Scale) -> None:
    """The engine's own loop: texts of the same length, all at once, at temperature 0.2."""
    print("\n| the engine's loop | tokens/s | gap p50 | gap p99 | longest |")
    print("| --- | --- | --- | --- | --- |")
    sampling = Sampling(max_tokens=scale.loop_tokens)
    for batch in scale.loops:
        ended: queue.Queue[Finished | Failed] = queue.Queue()
        generations = [
            engine.submit(
                GenerationRequest(Conversation(UserTurn((f"tell me about {number}",))), sampling),
                lambda e: ended.put(e) if isinstance(e, Finished | Failed) else None,  # noqa: B023
            )
            for number in range(batch)
        ]
        for _ in generations:
            if isinstance(event := ended.get(timeout=WAIT_S), Failed):
                raise event.error
        made = [tokens.of(generation) for generation in generations]
        # From when all have begun: what is measured is decoding, not the prompts.
        begun_s = max(each.times_s[0] for each in made)
        times = [at for each in made for at in each.times_s if at > begun_s]
        per_s = len(times) / (max(times) - begun_s)
        gaps = [gap for each in made for gap in each.gaps_s]
        figures = (percentile(gaps, 50), percentile(gaps, 99), max(gaps))
        print(f"| batch {batch} | {per_s:.0f} | {' | '.join(map(in_ms, figures))} |", flush=True)


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
    print(f"| {name} | {in_ms(took_s)} | {in_ms(floor_s)} | {took_s / floor_s:.2f} |", flush=True)


def _language_bytes(model: Any) -> int:
    """What a decode step reads: the layers and the head, not the embedding's table."""
    parameters = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    return sum(parameter.nbytes for parameter in parameters)


def _speed(scale: Scale, folder: Path, *, compiles: bool) -> None:
    print(f"\nENABLE_TORCH_COMPILE={str(compiles).lower()}")
    changes = {"max_context_tokens": 4096, "enable_torch_compile": compiles}
    settings = scale.settings.model_copy(update=changes)
    if scale.device.type == "cuda":
        check_speed(scale, folder, settings)
        return
    # A CPU has decode steps of their own only where they are compiled; this is but a try.
    with torch.compiler.set_stance("force_eager"):
        check_speed(scale, folder, settings.model_copy(update={"enable_torch_compile": True}))


def _kernel(scale: Scale) -> None:
    if scale.device.type == "cpu":
        print("skipped: a CPU runs the kernel only in Triton's interpreter, as a test does")
        return
    check_kernel(scale.device, scale.kernel_cases, scale.kernel_heads, scale.kernel_repeats)


@dataclass(frozen=True)
class Part:
    """What is run, and the seconds after which it is stopped."""

    run: Callable[[Scale, Path], None]
    most_s: float


# Each is a process of its own, so that none begins with another's memory.
PARTS = {
    "tokens": Part(lambda scale, _: check_tokens(scale.device), 300),
    "kernel": Part(lambda scale, _: _kernel(scale), 180),
    "speed": Part(lambda scale, folder: _speed(scale, folder, compiles=False), 420),
    "long": Part(check_long, 420),
    "talkers": Part(check_talkers, 450),
    "peers": Part(check_peers, 470),
    # The last, as compiling takes minutes.
    "compiled": Part(lambda scale, folder: _speed(scale, folder, compiles=True), 470),
}


def run(arguments: Sequence[str]) -> int:
    """Run parts by their names, all without one; 1 if one failed. Raises SystemExit."""
    parser = argparse.ArgumentParser("gpu-check", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--device", choices=SCALES, default="cuda", help="cpu: a small try")
    parser.add_argument("--weights", type=Path, help="folder to make the random weights in, kept")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.parts if name not in PARTS]:
        raise SystemExit(f"gpu-check: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: skipped, this machine has no CUDA device that PyTorch can use")
        return 0
    if given.here:
        _run_here(given.parts[0], SCALES[given.device], given.weights)
        return 0
    with tempfile.TemporaryDirectory() as made:
        folder = given.weights or Path(made) / "random"
        results = [(name, *_run_apart(name, given.device, folder)) for name in given.parts or PARTS]
    print("\n| part | result | seconds |\n| --- | --- | --- |")
    for name, result, took_s in results:
        print(f"| {name} | {result} | {took_s:.0f} |")
    failed = [name for name, result, _ in results if result != "ok"]
    if failed:
        print(f"gpu-check: failed: {', '.join(failed)}")
    return int(bool(failed))


def _run_apart(name: str, device: str, folder: Path) -> tuple[str, float]:
    """What came of a part in a process of its own, and seconds."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "bench.gpu_check", name, "--here", "--device", device]
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            [*command, "--weights", str(folder)], check=False, timeout=PARTS[name].most_s
        )
        result = "ok" if done.returncode == 0 else f"failed with status {done.returncode}"
    except subprocess.TimeoutExpired:
        result = f"stopped after {PARTS[name].most_s:.0f} s"
    if result != "ok":
        print(f"\n{name}: {result}; the other parts go on", flush=True)
    return result, time.monotonic() - started_s


def _run_here(name: str, scale: Scale, folder: Path) -> None:
    print(f"\n## {name}: on {device_name(scale.device)}, torch {torch.__version__}", flush=True)
    PARTS[name].run(scale, folder)
    print(
        f"\n{name}: ended well on {device_name(scale.device)}; {memory(scale.device)}", flush=True
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
