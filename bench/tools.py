"""Measures what tools cost, and checks that answers bound to a schema are never malformed.

python -m bench.tools [--answers 2000]
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mistral_common
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.support.random_schemas import SCHEMAS, random_model, satisfies
from voxtral_worker.engine.answer import answer
from voxtral_worker.engine.constraint import Constraint, Masks
from voxtral_worker.engine.conversation import Conversation, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.grammar import Grammars, Shape
from voxtral_worker.engine.model import load_model
from voxtral_worker.engine.request import AnswerSchema, Sampling
from voxtral_worker.engine.tool_options import read_tools
from voxtral_worker.engine.tools import Toolbox
from voxtral_worker.settings import EMBEDDED_MODEL, Settings

AT_ONCE = 32
MOST_TOKENS = 400
CALLS_MEASURED = 20
LARGE = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
TOOLS = [
    {
        "type": "function",
        "name": "set_device",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": ["kitchen", "bedroom", "bathroom"]},
                "device": {"type": "string", "enum": ["light", "heater"]},
                "on": {"type": "boolean"},
            },
            "required": ["room", "device", "on"],
        },
    },
    {
        "type": "function",
        "name": "set_timer",
        "parameters": {
            "type": "object",
            "properties": {"amount": {"type": "integer"}, "label": {"type": "string"}},
            "required": ["amount"],
        },
    },
]


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def measure_masks(path: Path) -> None:
    """The cost of a grammar and of its masks with one vocabulary."""
    tokenizer = Tekkenizer.from_file(path)
    call_token = tokenizer.get_special_token("[TOOL_CALLS]")
    grammars = Grammars(tokenizer, call_token)
    begun = time.perf_counter()
    grammars.start()
    grammars.is_prepared.wait()
    prepared = time.perf_counter() - begun
    shape = Shape(Toolbox(read_tools(TOOLS, "tools"), "required", parallel=False))
    begun = time.perf_counter()
    grammars.check(shape)
    compiled = time.perf_counter() - begun
    masks = Masks.of(tokenizer, torch.device("cpu"))
    matched, applied, rng = [], [], random.Random(1)
    for _ in range(CALLS_MEASURED):
        constraint = Constraint(shape, grammars.find(shape))
        for _ in range(MOST_TOKENS):
            if constraint.is_over:
                break
            begun = time.perf_counter()
            bits = constraint.mask()
            matched.append(time.perf_counter() - begun)
            logits = torch.zeros(1, tokenizer.n_words)
            begun = time.perf_counter()
            masks.apply(logits, [constraint])
            applied.append(time.perf_counter() - begun)
            packed = np.frombuffer(bits, np.uint8)
            allowed = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
            token = int(rng.choice(allowed))
            constraint.take(token, is_call=token == call_token)
    grammars.stop()
    say(
        f"{tokenizer.n_words} tokens: prepared in {prepared:.2f} s, two tools compiled in "
        f"{compiled * 1e3:.1f} ms; mask of a token {statistics.median(matched) * 1e6:.0f} us "
        f"median, {max(matched) * 1e3:.2f} ms longest; with the logits of one row on a CPU "
        f"{statistics.median(applied) * 1e3:.2f} ms median ({len(matched)} tokens)"
    )


def schemas(count: int) -> list[dict[str, Any]]:
    """So many schemas of any shape."""
    found: list[dict[str, Any]] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEMAS)
    def collect(schema: dict[str, Any]) -> None:
        found.append(schema)

    collect()
    return found[:count]


async def constrained(engine: Engine, count: int) -> Counter[str]:
    """Random answers, half of them calls and half of them JSON, and their outcomes."""
    outcomes: Counter[str] = Counter()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, schema: dict[str, Any]) -> None:
        is_call = number % 2 == 0
        tools = read_tools([{"name": "it", "parameters": schema}], "tools") if is_call else ()
        box = Toolbox(tools, "required", parallel=False) if is_call else Toolbox()
        asked = None if is_call else AnswerSchema(json.dumps(schema), strict=True)
        sampling = Sampling(1.0, 1.0, MOST_TOKENS, seed=number, schema=asked)
        conversation = Conversation(UserTurn(("Go",)), tools=box)
        async with places:
            made = await answer(engine, conversation, sampling, "text", lambda _: None)
        kind = "calls" if is_call else "answers"
        if made.finish_reason == "length":
            # Cut off by the token limit: there is no call and no whole answer.
            outcomes[f"{kind} cut off" if not made.calls else "malformed"] += 1
            return
        text = made.calls[0].arguments if is_call else made.text
        is_good = satisfies(text, schema) and not (is_call and made.text)
        outcomes[f"{kind} that satisfy their schema" if is_good else "malformed"] += 1

    chosen = schemas(count)
    await asyncio.gather(*(one(number, schema) for number, schema in enumerate(chosen)))
    return outcomes


def main() -> None:
    """Measure, and print the results."""
    reader = argparse.ArgumentParser()
    reader.add_argument("--answers", type=int, default=2000)
    asked = reader.parse_args()
    for path in (EMBEDDED_MODEL / "tekken.json", LARGE):
        measure_masks(path)
    options = Settings(
        model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32", max_batch_size=AT_ONCE
    )
    engine = Engine(EngineCore(random_model(load_model(options)), options))
    engine.start()
    try:
        outcomes = asyncio.run(constrained(engine, asked.answers))
    finally:
        engine.stop()
    for outcome, times in sorted(outcomes.items()):
        say(f"{outcome}: {times}")
    say(f"malformed: {outcomes['malformed']} of {sum(outcomes.values())}")


if __name__ == "__main__":
    main()
