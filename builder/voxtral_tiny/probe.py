"""How often the model calls rightly and wrongly, while it is trained.

Nothing is generated: an answer is exact where each of its tokens is the likeliest one behind those
before it, so a batch costs as much as a forward pass.
"""

from collections import Counter
from typing import Any

import torch

from builder.voxtral_tiny import forward
from builder.voxtral_tiny.batch import AUDIO_PLACE, Batch, Batcher
from builder.voxtral_tiny.features import HeardUtterance
from builder.voxtral_tiny.tokenizer import CALLS, RESULTS

OFFERS = 50
TURNS = 8


class Probe:
    """The same batches each time: offers of tools, and words without any."""

    def __init__(self, batcher: Batcher, heard: list[HeardUtterance]) -> None:
        self._offers = [batcher.draw_tools(heard, 1, TURNS) for _ in range(OFFERS)]
        self._words = [batch for _ in range(2) for batch in batcher.draw(heard, 24, 1)]

    @torch.inference_mode()
    def measure(self, net: Any) -> dict[str, float]:
        """The share of answers by kind: exact ones, and calls where none fits."""
        counts: Counter[str] = Counter()
        for batch in self._offers:
            self._offered(net, batch, counts)
        for batch in self._words:
            found = forward.likeliest(net, batch, net.model.multi_modal_projector(batch.states))
            for labels, guesses in zip(batch.labels, found, strict=True):
                counts["words"] += 1
                counts["words, right"] += int(torch.equal(labels, guesses))
        return {name: counts[name] / counts[name.split(",")[0]] for name in counts if "," in name}

    def _offered(self, net: Any, batch: Batch, counts: Counter[str]) -> None:
        found = forward.likeliest(net, batch, net.model.multi_modal_projector(batch.states))
        for row in range(len(batch.ids)):
            for branch in range(1, int(batch.branches[row].max()) + 1):
                at = batch.branches[row] == branch
                ids, labels, guesses = batch.ids[row][at], batch.labels[row][at], found[row][at]
                learned = labels != -100
                wanted, given = labels[learned], guesses[learned]
                if (ids == RESULTS).any():
                    name = "results"
                else:
                    way = "spoken" if (ids == AUDIO_PLACE).any() else "typed"
                    name = f"{way} {'calls' if wanted[0] == CALLS else 'others'}"
                counts[name] += 1
                counts[f"{name}, right"] += int(torch.equal(wanted, given))
                if name != "results":
                    counts[f"{name}, called"] += int(given[0] == CALLS)
