"""Runs decode steps in a few fixed shapes, so that a step can be recorded once and replayed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from voxtral_worker.engine.attention import GatheredRows, KernelRows, PagedBatch, attending
from voxtral_worker.engine.kv_cache import BLOCK_TOKENS, blocks_for
from voxtral_worker.engine.packing import gathered_weights, hiding_mask
from voxtral_worker.engine.recording import GraphRecorder, Recorder, Recording, tell_fallback

# Batches are filled up to one of these sizes.
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Row:
    """One sequence's newest token: its id, its index, and the blocks of all tokens, int64 [width].

    Its position is further on than its index by `skipped` positions that no token takes.
    """

    token_id: int
    index: int
    blocks: torch.Tensor
    skipped: int = 0


Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [rows, vocabulary] of ids [rows] at positions [rows], within an open batch."""


class DecodeSteps:
    """Steps of each size, with at most one recording a size; all read the same input tensors.

    Rows that fill a batch up write to `spare_block`, which no sequence has. When a kernel,
    a recording or a compilation fails, all further steps gather and run `plain` unrecorded.
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
        plain: Forward | None = None,
        recorder: Recorder | None = None,
        log_weights: torch.Tensor | None = None,
    ) -> None:
        """`plain`: `forward` before its compilation. `recorder`: CUDA's own where None on CUDA.

        `most_rows` and `most_tokens` limit a batch and a context. `log_weights`: see `pack`.
        """
        # What is run now, and what replaces it once it has failed.
        self._forward = forward
        self._plain = plain or forward
        # The runner's KV cache, a tensor for each layer, and the weights of its rows.
        self._keys, self._values = keys, values
        self._log_weights = log_weights
        # Rows that only fill a batch up write here.
        self._spare_block = spare_block
        # The numbers of rows that a step may have, the smallest first.
        self._sizes = [size for size in SIZES if size < most_rows] + [most_rows]
        device = keys[0].device
        # Id, position, slot and length of each row, and its blocks. The host's copies are pinned,
        # so that copying them to the device does not wait for the steps before.
        self._host_numbers = _pinned((4, most_rows), torch.long, device)
        self._host_blocks = _pinned((most_rows, blocks_for(most_tokens)), torch.int32, device)
        # The device's copies. Recordings read them at fixed addresses, so they are never replaced.
        self._numbers = torch.zeros_like(self._host_numbers, device=device)
        self._blocks = torch.zeros_like(self._host_blocks, device=device)
        self._lengths = torch.ones(most_rows, dtype=torch.int32, device=device)
        # Marks the end of the last copy to the device. Until then the host must keep its tensors.
        self._sent: torch.cuda.Event | None = None
        # All recordings write here; otherwise each would keep logits of its own alive.
        self._logits: torch.Tensor | None = None
        # By the number of rows.
        self._recordings: dict[int, Recording] = {}
        # None: steps run kernel by kernel, on a CPU or since a recording failed.
        if recorder is None and device.type == "cuda":
            recorder = GraphRecorder()
        self._recorder = recorder
        # How the steps attend. It changes from "paged" to "gathered" at most once.
        self.attention: Literal["paged", "gathered"] = "paged" if recorder else "gathered"

    @torch.inference_mode()
    def prepare(self) -> None:
        """Record every size, the largest first, as the smaller ones fit into its memory."""
        for size in reversed(self._sizes):
            self._fill([], size)
            self._run(size, blocks_for(1))

    def run(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits, float [rows, vocabulary]; valid until the next run. At most `most_rows` rows."""
        size = next(size for size in self._sizes if size >= len(rows))
        self._fill(rows, size)
        width = max(len(row.blocks) for row in rows)
        return self._run(size, width)[: len(rows)]

    def _fill(self, rows: Sequence[Row], size: int) -> None:
        """Copy a batch to the device, filled up to `size` with rows of the spare block."""
        spare = Row(0, 0, torch.tensor([self._spare_block]))
        padded = [*rows, *[spare] * (size - len(rows))]
        numbers = [
            [row.token_id, row.index + row.skipped, _slot(row), row.index + 1] for row in padded
        ]
        if self._sent is not None:
            self._sent.synchronize()
        self._host_numbers[:, :size] = torch.tensor(numbers).T
        for line, row in zip(self._host_blocks, padded, strict=False):
            line[: len(row.blocks)] = row.blocks
            # Its own once more: what a mask hides is still multiplied by 0, and NaN survives.
            line[len(row.blocks) :] = row.blocks[0]
        self._numbers.copy_(self._host_numbers, non_blocking=True)
        self._lengths[:size] = self._numbers[3, :size]
        self._blocks[:size].copy_(self._host_blocks[:size], non_blocking=True)
        if self._host_numbers.is_pinned():
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record()

    def _run(self, size: int, width: int) -> torch.Tensor:
        try:
            return self._replay(size) if self._recorder else self._once(size, width)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises
            if not self._fall_back(error):
                raise
        # Outside of the `except` block, which keeps the tensors of the failed step alive.
        return self._once(size, width)

    def _replay(self, size: int) -> torch.Tensor:
        recording = self._recordings.get(size)
        if recording is None:
            assert self._recorder is not None
            width = self._blocks.shape[1]
            recording = self._recorder.record(lambda: self._kept(size, width))
            self._recordings[size] = recording
        recording.replay()
        return recording.output

    def _kept(self, size: int, width: int) -> torch.Tensor:
        logits = self._once(size, width)
        if self._logits is None:
            self._logits = logits.new_empty(self._sizes[-1], *logits.shape[1:])
        return self._logits[:size].copy_(logits)

    def _fall_back(self, error: Exception) -> bool:
        """Take the slower way from now on; returns False when it was taken already."""
        if self._recorder is None and self._forward == self._plain:
            return False
        tell_fallback("decode step", error)
        self._forward = self._plain
        self._recorder = None
        self._recordings.clear()
        self.attention = "gathered"
        return True

    def _once(self, size: int, width: int) -> torch.Tensor:
        with attending(self._batch(size, width)):
            return self._forward(self._numbers[0, :size], self._numbers[1, :size])

    def _batch(self, size: int, width: int) -> PagedBatch:
        slots = self._numbers[2, :size]
        if self.attention == "paged":
            rows = KernelRows(self._blocks[:size], self._lengths[:size], self._log_weights)
            return PagedBatch(self._keys, self._values, slots, rows, [])
        mask = hiding_mask(self._lengths[:size], width * BLOCK_TOKENS, self._keys[0].dtype)
        blocks = self._blocks[:size, :width]
        if self._log_weights is not None:
            mask += gathered_weights(self._log_weights, blocks)
        group = GatheredRows(0, size, blocks, mask)
        return PagedBatch(self._keys, self._values, slots, [group], [])


def _slot(row: Row) -> int:
    return int(row.blocks[row.index // BLOCK_TOKENS]) * BLOCK_TOKENS + row.index % BLOCK_TOKENS


def _pinned(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    is_pinned = device.type == "cuda" and torch.cuda.is_available()
    return torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=is_pinned)
