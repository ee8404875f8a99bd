"""Decode steps of fixed shapes, so that a step can be recorded once and replayed.

Launching the hundreds of small kernels of a step one by one takes a GPU longer than the
step itself; a CUDA graph launches them all at once.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from voxtral_worker.engine.attention import GatheredRows, KernelRows, PagedBatch, attending
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.packing import hiding_mask

log = logging.getLogger(__name__)

# Batches are filled up to one of these sizes.
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# A first run compiles kernels and sets libraries up, which must not be recorded.
RUNS_BEFORE_RECORDING = 2


@dataclass(frozen=True)
class Row:
    """One sequence's newest token: its id, its place, and the blocks of all tokens so far."""

    token_id: int
    position: int
    blocks: torch.Tensor


Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [rows, vocabulary] of ids [rows] at positions [rows], within an open batch."""


@dataclass
class _Step:
    """A recorded step: run `replay`, and `logits` are there."""

    replay: Callable[[], None]
    logits: torch.Tensor


class DecodeSteps:
    """Every size has at most one recording; all of them read the same input tensors.

    Rows that fill a batch up write to `spare_block`, which belongs to nobody.
    """

    def __init__(
        self,
        forward: Forward,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        *,
        most_rows: int,
        most_tokens: int,
        spare_block: int,
    ) -> None:
        self._forward = forward
        self._keys, self._values = keys, values
        self._spare_block = spare_block
        self._sizes = [size for size in SIZES if size < most_rows] + [most_rows]
        device = keys[0].device
        # One tensor, so that a step's input is one transfer: id, position, slot and length.
        self._numbers = torch.zeros(4, most_rows, dtype=torch.long, device=device)
        self._blocks = torch.zeros(
            most_rows, blocks_for(most_tokens), dtype=torch.int32, device=device
        )
        self._lengths = torch.ones(most_rows, dtype=torch.int32, device=device)
        self._steps: dict[int, _Step] = {}
        self._records = device.type == "cuda"
        self._pool: Any = None

    @torch.inference_mode()
    def prepare(self) -> None:
        """Record every size, the largest first, as the others fit into its memory."""
        for size in reversed(self._sizes):
            self._fill([], size)
            self._run(size, blocks_for(1))

    def run(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits [rows, vocabulary]; good until the next run. At most `most_rows` rows."""
        size = next(size for size in self._sizes if size >= len(rows))
        self._fill(rows, size)
        width = max(len(row.blocks) for row in rows)
        return self._run(size, width)[: len(rows)]

    def _fill(self, rows: Sequence[Row], size: int) -> None:
        """Bring a batch to the device; the rest of it repeats the spare block's token."""
        spare = Row(0, 0, torch.tensor([self._spare_block]))
        padded = [*rows, *[spare] * (size - len(rows))]
        numbers = [[row.token_id, row.position, _slot(row), row.position + 1] for row in padded]
        blocks = torch.zeros(size, max(len(row.blocks) for row in padded), dtype=torch.int32)
        for line, row in zip(blocks, padded, strict=True):
            line[: len(row.blocks)] = row.blocks
        self._numbers[:, :size] = torch.tensor(numbers).T.to(self._numbers.device)
        self._lengths[:size] = self._numbers[3, :size].int()
        self._blocks[:size, : blocks.shape[1]] = blocks.to(self._blocks.device)

    def _run(self, size: int, width: int) -> torch.Tensor:
        if not self._records:
            return self._once(size, width)
        step = self._steps.get(size)
        if step is None:
            step = self._steps[size] = self._record(size)
        step.replay()
        return step.logits

    def _once(self, size: int, width: int) -> torch.Tensor:
        with attending(self._batch(size, width)):
            return self._forward(self._numbers[0, :size], self._numbers[1, :size])

    def _batch(self, size: int, width: int) -> PagedBatch:
        slots = self._numbers[2, :size]
        if self._blocks.is_cuda:
            rows = KernelRows(self._blocks[:size], self._lengths[:size])
            return PagedBatch(self._keys, self._values, slots, rows, [])
        mask = hiding_mask(self._lengths[:size], width * BLOCK_TOKENS, self._keys[0].dtype)
        group = GatheredRows(0, size, self._blocks[:size, :width], mask)
        return PagedBatch(self._keys, self._values, slots, [group], [])

    def _record(self, size: int) -> _Step:
        width = self._blocks.shape[1]
        try:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(RUNS_BEFORE_RECORDING):
                    self._once(size, width)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits = self._once(size, width)
            self._pool = graph.pool()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Slower, but right: a worker that answers is better than one that does not start.
            log.warning("engine: decode steps cannot be recorded: %s", error)
            self._records = False
            return _Step(lambda: None, self._once(size, width))
        return _Step(graph.replay, logits)


def _slot(row: Row) -> int:
    return int(row.blocks[row.position // BLOCK_TOKENS]) * BLOCK_TOKENS + (
        row.position % BLOCK_TOKENS
    )
