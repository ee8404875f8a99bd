"""Compares the worker with vLLM's CPU build and `generate()`: same weights, same requests, in turn.

Worker and vLLM answer the same calls of the `openai` package over HTTP, on one core;
`generate()` gets the same prompts in this process, on another. Every answer is compared.

`python -m bench.peers [--rounds N] [--audio COUNT ...] [--text COUNT ...]
[--servers NAME ...]` runs a part of it.
"""

import argparse
import asyncio
import base64
import io
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import soundfile
import torch
from openai import AsyncOpenAI, AsyncStream

from bench.vllm_peer import embedded, install_vllm, running_vllm
from tests.support.sounds import clips
from tests.support.workers import running_worker
from voxtral_worker.engine.model import LoadedModel, load_model
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

ROUNDS = 7
MOST_TOKENS = 64
GROUPS = ((True, 1), (True, 8), (True, 16), (True, 32), (False, 1), (False, 16), (False, 32))
SERVERS = ("vLLM", "worker", "worker, compiled", "worker, sampled tail")
PLAIN = ("generate(), one by one", "generate(), padded batch")
WORKER = {"DTYPE": "float32", "RESPONSE_CACHE_SIZE": "0", "OMP_NUM_THREADS": "1"}
# Compiled, as vLLM is by default.
WAYS = {
    "worker": {"WINDOW_TAIL": "exact"},
    "worker, compiled": {"WINDOW_TAIL": "exact", "ENABLE_TORCH_COMPILE": "true"},
    "worker, sampled tail": {"WINDOW_TAIL": "sampled"},
}
# A little noise makes each sound different, so that no peer can answer from a cache.
NOISE = 1e-4
# The bundled sentences, filled up to 3 s.
CLIP_SAMPLES = 48_000


@dataclass(frozen=True)
class Answers:
    """The answers to a group of requests, and their times in seconds from the first request."""

    texts: tuple[str, ...]
    firsts_s: tuple[float, ...]
    whole_s: float


Side = Callable[[list[str]], Awaitable[Answers]]


class Requests:
    """Groups of requests: recordings as WAV in base64, or texts."""

    def __init__(self, seed: int = 1) -> None:
        self._random = np.random.default_rng(seed)
        self._clips = {
            words: np.frombuffer(sound, "<i2").astype(np.float32) / 32_768
            for words, sound in clips().items()
        }

    def group(self, count: int, *, is_audio: bool) -> list[str]:
        """So many requests, with one clip after the other."""
        words = list(self._clips)
        chosen = [words[number % len(words)] for number in range(count)]
        return [self._recorded(text) for text in chosen] if is_audio else chosen

    def _recorded(self, words: str) -> str:
        samples = self._clips[words]
        noise = NOISE * self._random.standard_normal(CLIP_SAMPLES).astype(np.float32)
        noise[: len(samples)] += samples[:CLIP_SAMPLES]
        file = io.BytesIO()
        soundfile.write(file, noise, 16_000, format="WAV", subtype="FLOAT")
        return base64.b64encode(file.getvalue()).decode()


async def by_http(client: AsyncOpenAI, is_audio: bool, group: list[str]) -> Answers:
    """All requests of a group at once, streamed."""
    started_s = time.monotonic()

    async def ask(request: str) -> tuple[str, float]:
        recording = {"data": request, "format": "wav"}
        content = [{"type": "input_audio", "input_audio": recording}] if is_audio else request
        pieces, first_s = [], 0.0
        stream = await client.chat.completions.create(
            model=EMBEDDED_MODEL.name,
            messages=[{"role": "user", "content": content}],  # type: ignore[list-item, misc]
            temperature=0,
            max_completion_tokens=MOST_TOKENS,
            stream=True,
        )
        assert isinstance(stream, AsyncStream)
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first_s = first_s or time.monotonic() - started_s
                pieces.append(chunk.choices[0].delta.content)
        return "".join(pieces), first_s

    answers = await asyncio.gather(*(ask(request) for request in group))
    whole_s = time.monotonic() - started_s
    return Answers(
        tuple(text for text, _ in answers), tuple(first_s for _, first_s in answers), whole_s
    )


class Plain:
    """`generate()` of transformers, greedy, until its answers end by themselves."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    async def answer(self, at_once: int, is_audio: bool, group: list[str]) -> Answers:
        """The group in batches; the first tokens of a batch are there when it is prefilled."""
        started_s = time.monotonic()
        texts: list[str] = []
        for start in range(0, len(group), at_once):
            texts += self._generate(group[start : start + at_once], MOST_TOKENS, is_audio)
        return Answers(tuple(texts), (), time.monotonic() - started_s)

    async def first_token(self, is_audio: bool, group: list[str]) -> Answers:
        """The first token of all, as one padded batch."""
        started_s = time.monotonic()
        texts = self._generate(group, 1, is_audio)
        took_s = time.monotonic() - started_s
        return Answers(tuple(texts), (took_s,) * len(group), took_s)

    @torch.inference_mode()
    def _generate(self, group: list[str], tokens: int, is_audio: bool) -> list[str]:
        processor: Any = self._loaded.processor
        contents: list[Any] = [
            [{"type": "audio", "base64": request}] if is_audio else request for request in group
        ]
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": content}] for content in contents]
        )
        made = self._loaded.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        answers = made[:, inputs["input_ids"].shape[1] :]
        return list(processor.batch_decode(answers, skip_special_tokens=True))


def run(
    rounds: int = ROUNDS,
    groups: Sequence[tuple[bool, int]] = GROUPS,
    servers: Sequence[str] = SERVERS,
) -> None:
    """Print the tables, or why vLLM is not among the peers here."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else [0, 0]
    try:
        python = install_vllm()
    except RuntimeError as error:
        print(f"peers: skipped, vLLM's CPU build does not install here: {error}")
        return
    torch.set_num_threads(1)
    # The servers are children of this process, so they inherit its core.
    _stay_on(cores[-1])
    with ExitStack() as running:
        urls = {}
        for name in servers:
            server = (
                running_vllm(python, embedded(cores[-1]))
                if name == SERVERS[0]
                else (running_worker(**WORKER, **WAYS[name]))
            )
            urls[name] = running.enter_context(server)
        _stay_on(cores[0])
        asyncio.run(_measure(urls, rounds, groups))


async def _measure(
    urls: dict[str, str], count_of_rounds: int, groups: Sequence[tuple[bool, int]]
) -> None:
    settings = Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32")
    plain, requests = Plain(load_model(settings)), Requests()
    clients = [
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
        for url in urls.values()
    ]
    names = [*PLAIN, *urls]
    print(f"\nmedians of {count_of_rounds} interleaved rounds, float32, one core each, ms\n")
    print(f"| requests | {' | '.join(names)} | worker / vLLM | first token, median:", end=" ")
    print(f"{' | '.join(names[1:])} | worker / vLLM | same words |")
    print(f"| {'--- | ' * (2 * len(names) + 3)}")
    for is_audio, count in groups:
        sides: list[Side] = [
            partial(plain.answer, 1, is_audio),
            partial(plain.answer, count, is_audio),
            *(partial(by_http, client, is_audio) for client in clients),
            partial(plain.first_token, is_audio),
        ]
        rounds = []
        for number in range(count_of_rounds + 1):
            group = requests.group(count, is_audio=is_audio)
            answers = [await side(group) for side in sides]
            if number:  # the first round only warms up
                rounds.append(answers)
        print(f"| {'audio' if is_audio else 'text'} × {count} | {_row(rounds)} |", flush=True)
    for client in clients:
        await client.close()


def _row(rounds: list[list[Answers]]) -> str:
    *sides, first = zip(*rounds, strict=True)
    wholes = [_median_ms(answers.whole_s for answers in side) for side in sides]
    firsts = [
        _median_ms(statistics.median(answers.firsts_s) for answers in side)
        for side in (first, *sides[2:])
    ]
    # Without the padded batch: padding changes the last bits, and in rare cases a word.
    groups = zip(
        *([answers.texts for answers in side] for side in (sides[0], *sides[2:])), strict=True
    )
    words = [texts for group in groups for texts in zip(*group, strict=True)]
    same = sum(len(set(texts)) == 1 for texts in words)
    cells = [
        *(f"{value:.0f}" for value in wholes),
        _ratios(wholes[2:]),
        *(f"{value:.0f}" for value in firsts),
        _ratios(firsts[1:]),
        f"{same} of {len(words)}",
    ]
    return " | ".join(cells)


def _ratios(figures: list[float]) -> str:
    vllm, *workers = figures
    return " / ".join(f"{figure / vllm:.2f}" for figure in workers)


def _median_ms(seconds: Iterable[float]) -> float:
    return 1000 * statistics.median(seconds)


def _stay_on(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def main() -> None:
    """Run what was named, or everything."""
    parser = argparse.ArgumentParser(description="The worker beside vLLM's CPU build.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--audio", type=int, nargs="*")
    parser.add_argument("--text", type=int, nargs="*")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    given = parser.parse_args()
    # Ratios are to vLLM.
    servers = [name for name in SERVERS if name == SERVERS[0] or name in given.servers]
    audio, text = (
        [(is_audio, n) for n in counts or ()]
        for is_audio, counts in ((True, given.audio), (False, given.text))
    )
    run(given.rounds, [*audio, *text] or GROUPS, servers)


if __name__ == "__main__":
    main()
