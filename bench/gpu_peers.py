"""Compares the engine with plain `generate()` and, if installed, vLLM: same weights and prompts."""

import asyncio
import base64
import importlib.util
import io
import os
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from bench.gpu_scale import Scale, load_random
from bench.gpu_timing import free, in_ms, memory, synchronize
from bench.token_times import TokenTimes
from bench.vllm_peer import HOME, Serving, running_vllm
from tests.support.endless import endless_engine
from tests.support.mistral_format import write_mistral_format
from voxtral_worker.engine.conversation import SAMPLE_RATE, Audio, Conversation, UserTurn
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.model import LoadedModel
from voxtral_worker.engine.request import Failed, Finished, GenerationRequest, Sampling

TOKENS = 64
TEXT = "set a timer for ten minutes"
WAIT_S = 300.0
MODEL_NAME = "random"
VLLM_MEMORY = 0.6
# vLLM's option to continue an answer after the token that ends it.
ENDLESS = {"ignore_eos": True}


@dataclass(frozen=True)
class Took:
    """A group of requests: seconds to the first token, median over them, and to the end of all."""

    first_s: float
    whole_s: float


Side = Callable[[int, bool], Took]


def sound_of(number: int) -> np.ndarray:
    """3 s of noise, different for each number, so that no peer can answer from a cache."""
    rng = np.random.default_rng(number)
    return (0.1 * rng.standard_normal(3 * SAMPLE_RATE)).astype(np.float32)


def wav_of(sound: np.ndarray) -> str:
    """The sound as base64 of a WAV file, as the calls send it."""
    file = io.BytesIO()
    soundfile.write(file, sound, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()


def check_peers(scale: Scale, folder: Path) -> None:
    """Print each peer's table. Raises what a peer raises."""
    sides = _in_this_process(scale, folder)
    # vLLM's server needs the device's memory.
    free(scale.device)
    python = find_vllm()
    if python is None:
        print("vLLM: not measured: this needs the package openai here, and vLLM; where another")
        print("Python has vLLM, name that in VLLM_PYTHON")
    else:
        with tempfile.TemporaryDirectory() as converted:
            write_mistral_format(folder, Path(converted))
            serving = Serving(
                Path(converted), MODEL_NAME, "bfloat16", memory=VLLM_MEMORY, is_converted=True
            )
            try:
                with running_vllm(python, serving) as url:
                    sides["vLLM, over HTTP"] = _measure(served(url, MODEL_NAME, ENDLESS), scale)
            finally:
                # Show what was measured even if vLLM fails.
                _print(sides, scale)
        return
    _print(sides, scale)


def _in_this_process(scale: Scale, folder: Path) -> dict[str, dict[tuple[bool, int], Took]]:
    loaded = load_random(scale, folder)
    # Before the engine is made, because it replaces the model's attention.
    plain = _measure(lambda count, is_audio: _plain(loaded, count, is_audio), scale)
    print(f"memory beside generate(): {memory(scale.device)}", flush=True)
    free(scale.device)
    engine = endless_engine(loaded, scale.settings)
    tokens = TokenTimes(engine)
    ours = _measure(lambda count, is_audio: _by_engine(engine, tokens, count, is_audio), scale)
    print(f"memory beside the engine: {memory(scale.device)}", flush=True)
    engine.stop()
    return {"generate()": plain, "engine": ours}


def find_vllm() -> Path | None:
    """The Python that has vLLM: VLLM_PYTHON, this one, or the benchmark's own; None without one.

    Also None where the package that the calls are made with is missing here.
    """
    if importlib.util.find_spec("openai") is None:
        return None
    if named := os.environ.get("VLLM_PYTHON"):
        return Path(named)
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    made = HOME / "bin" / "python"
    return made if made.exists() else None


def _measure(side: Side, scale: Scale) -> dict[tuple[bool, int], Took]:
    """Medians of some rounds behind one that only warms up."""
    found = {}
    for is_audio in (True, False):
        for count in scale.loops:
            side(count, is_audio)
            rounds = [side(count, is_audio) for _ in range(scale.rounds)]
            found[is_audio, count] = Took(
                statistics.median(took.first_s for took in rounds),
                statistics.median(took.whole_s for took in rounds),
            )
    return found


@torch.inference_mode()
def _plain(loaded: LoadedModel, count: int, is_audio: bool) -> Took:
    """One padded batch; the first tokens of all are there when it is prefilled."""

    def generate(tokens: int) -> float:
        synchronize(loaded.device)
        started_s = time.monotonic()
        contents: list[Any] = [TEXT] * count
        if is_audio:
            sounds = [wav_of(sound_of(number)) for number in range(count)]
            contents = [[{"type": "audio", "base64": sound}] for sound in sounds]
        inputs = loaded.processor.apply_chat_template(
            [[{"role": "user", "content": content}] for content in contents]
        )
        moved = {
            name: tensor.to(loaded.device, loaded.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        loaded.model.generate(
            **moved, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens
        )
        synchronize(loaded.device)
        return time.monotonic() - started_s

    return Took(generate(1), generate(TOKENS))


def _by_engine(engine: Engine, tokens: TokenTimes, count: int, is_audio: bool) -> Took:
    """All at once."""
    ended: queue.Queue[Finished | Failed] = queue.Queue()
    started_s = time.monotonic()
    generations = []
    for number in range(count):
        part = Audio(sound_of(number)) if is_audio else TEXT
        request = GenerationRequest(Conversation(UserTurn((part,))), Sampling(0, 1, TOKENS))
        generations.append(
            engine.submit(
                request, lambda e: ended.put(e) if isinstance(e, Finished | Failed) else None
            )
        )
    for _ in generations:
        if isinstance(event := ended.get(timeout=WAIT_S), Failed):
            raise event.error
    whole_s = time.monotonic() - started_s
    firsts_s = [tokens.of(generation).times_s[0] - started_s for generation in generations]
    return Took(statistics.median(firsts_s), whole_s)


def served(url: str, model: str, extra: dict[str, Any]) -> Side:
    """All at once, over HTTP, streamed; `extra` goes into the body of each call."""
    from openai import AsyncOpenAI, AsyncStream

    async def ask(client: Any, number: int, is_audio: bool) -> float:
        content: Any = TEXT
        if is_audio:
            recording = {"data": wav_of(sound_of(number)), "format": "wav"}
            content = [{"type": "input_audio", "input_audio": recording}]
        started_s, first_s = time.monotonic(), 0.0
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_completion_tokens=TOKENS,
            stream=True,
            extra_body=extra,
        )
        assert isinstance(stream, AsyncStream)
        async for chunk in stream:
            if not first_s and chunk.choices and chunk.choices[0].delta.content:
                first_s = time.monotonic() - started_s
        return first_s or time.monotonic() - started_s

    async def group(count: int, is_audio: bool) -> Took:
        async with AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WAIT_S
        ) as client:
            started_s = time.monotonic()
            firsts_s = await asyncio.gather(*(ask(client, n, is_audio) for n in range(count)))
            return Took(statistics.median(firsts_s), time.monotonic() - started_s)

    return lambda count, is_audio: asyncio.run(group(count, is_audio))


def _print(sides: dict[str, dict[tuple[bool, int], Took]], scale: Scale) -> None:
    print(f"\n{TOKENS} new tokens each, greedy, {scale.rounds} rounds, bfloat16; more is better\n")
    others = [name for name in sides if name != "engine"]
    heads = [f"{name}: tokens/s | first token" for name in sides]
    ratios = [f"engine / {name}: tokens/s | first token" for name in others]
    print(f"| requests | {' | '.join(heads + ratios)} |")
    print(f"| {'--- | ' * (1 + 2 * len(heads + ratios))}")
    for is_audio in (True, False):
        for count in scale.loops:
            took = {name: figures[is_audio, count] for name, figures in sides.items()}
            cells = [
                f"{count * TOKENS / each.whole_s:.0f} | {in_ms(each.first_s)}"
                for each in took.values()
            ]
            ours = took["engine"]
            cells += [
                f"{took[name].whole_s / ours.whole_s:.2f} | {took[name].first_s / ours.first_s:.2f}"
                for name in others
            ]
            print(f"| {'audio' if is_audio else 'text'} × {count} | {' | '.join(cells)} |")
