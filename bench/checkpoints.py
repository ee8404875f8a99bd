"""What a spoken turn of 3 s costs with several checkpoints, in turn, in one process, on one core.

    python -m bench.checkpoints FOLDER [FOLDER ...]

Times are CPU time of the process, of which one thread computes: other programs on the machine make
them longer, and all checkpoints alike.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path

import torch

from bench.throughput import SETTINGS
from bench.window_tail import ANSWER, ask, of_three_seconds
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.core import EngineCore
from voxtral_worker.engine.engine import Engine
from voxtral_worker.engine.layout import WINDOW_TAILS
from voxtral_worker.engine.model import load_model

ROUNDS = 3


@dataclasses.dataclass
class Cost:
    """Of each turn: CPU ms to the first token and to the end, elapsed ms, and tokens."""

    first: list[float] = dataclasses.field(default_factory=list)
    whole: list[float] = dataclasses.field(default_factory=list)
    elapsed: list[float] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)


def measure(engines: dict[tuple[str, str], Engine], rounds: int) -> dict[tuple[str, str], Cost]:
    """Ask every engine the same sentences, one at a time and in turn."""
    costs = {key: Cost() for key in engines}
    for _ in range(rounds):
        for samples in of_three_seconds():
            for key, engine in engines.items():
                began_s = time.monotonic()
                conversation = Conversation(UserTurn((Audio(samples),)))
                (answer,), whole_s = ask(engine, [conversation], ANSWER, None)
                cost = costs[key]
                cost.elapsed.append(1000 * (time.monotonic() - began_s))
                cost.first.append(1000 * (answer.first_s or 0.0))
                cost.whole.append(1000 * whole_s)
                cost.tokens.append(len(answer.tokens))
    return costs


def run(folders: list[str], rounds: int = ROUNDS) -> dict[tuple[str, str], Cost]:
    """Print the table."""
    torch.set_num_threads(1)
    engines = {}
    for tail in WINDOW_TAILS:
        for folder in folders:
            settings = SETTINGS.model_copy(update={"window_tail": tail, "model_id": folder})
            engine = Engine(EngineCore(load_model(settings), settings))
            engine.start()
            engine.warm_up()
            engines[Path(folder).name, tail] = engine
    costs = measure(engines, rounds)
    for engine in engines.values():
        engine.stop()
    print("\nA spoken turn of 3 s, alone; medians in ms, and the quarters around them\n")
    print("| checkpoint | window's tail | first token, CPU | whole answer, CPU ", end="")
    print("| whole answer, elapsed | tokens |\n|" + " --- |" * 6)
    for (name, tail), cost in costs.items():
        cells = [_spread(cost.first), _spread(cost.whole), _spread(cost.elapsed)]
        tokens = f"{statistics.median(cost.tokens):.0f}"
        print(f"| {name} | {tail} | {' | '.join(cells)} | {tokens} |", flush=True)
    return costs


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m bench.checkpoints FOLDER [FOLDER ...]")
    run(sys.argv[1:])
