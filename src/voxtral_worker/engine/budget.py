"""Limits what one step may compute: windows of audio, and tokens of prompts.

A step holds up every answer that is being spoken, so a long prompt is computed in parts. The
cost of a part grows with the context before it, which it attends to. How long it takes depends
on the device, and is measured at the start.
"""

import math
from typing import Any

# Prompt tokens without context that one step computes; used where nothing was measured.
MOST_ROWS = 512
# Share of them for background work, as long as a more urgent sequence runs.
SHARE_BEHIND_OTHERS = 1 / 4
# Seconds that the windows and the prompts of one step may take; a faster device computes more.
WINDOWS_STEP_S = 0.030
ROWS_STEP_S = 0.025
MOST_WINDOWS = 8
# Attention reaches about this share of the speed of plain products.
ATTENTION_EFFICIENCY = 1 / 3


def context_per_row(config: Any) -> float:
    """Tokens of context that cost a row as much time as its own products with the weights.

    `config` is transformers' for the text model. A row takes two operations for each weight, and
    four for each token of context and each element of its heads, in every layer.
    """
    head_width = config.num_attention_heads * config.head_dim
    kv_width = config.num_key_value_heads * config.head_dim
    size = config.hidden_size
    weights = 2 * size * (head_width + kv_width) + 3 * size * config.intermediate_size
    return float(2 * weights / (4 * head_width) * ATTENTION_EFFICIENCY)


def windows_a_step(window_s: float) -> int:
    """Windows, 1 to 8, for one step of a device that takes `window_s` seconds for one window."""
    return _power_of_two(min(max(WINDOWS_STEP_S / window_s, 1.0), float(MOST_WINDOWS)))


def rows_a_step(step_s: float) -> int:
    """Prompt tokens, 256 to 2,048, for one step of a device that takes `step_s` seconds for 512."""
    return _power_of_two(MOST_ROWS * min(max(ROWS_STEP_S / step_s, 0.5), 4.0))


def _power_of_two(most: float) -> int:
    # Libraries choose their kernels by size, and the encoder is recorded for these sizes.
    return int(2 ** math.floor(math.log2(most)))


class PrefillBudget:
    """The work that is left of one step, counted in rows without context."""

    def __init__(self, context_per_row: float, most_rows: int = MOST_ROWS) -> None:
        self._context_per_row = context_per_row
        self._most_rows = most_rows
        self._room = float(most_rows)
        self._room_behind_others = most_rows * SHARE_BEHIND_OTHERS

    def take(self, most: int, context: int, *, is_urgent: bool) -> int:
        """Take rows, 0 to `most`, that follow `context` tokens of a prompt; returns their number.

        The first prompt of a step gets at least one row, however long its context is.
        """
        is_first = self._room == self._most_rows
        room = self._room if is_urgent else min(self._room, self._room_behind_others)
        cost = 1 + context / self._context_per_row
        rows = min(most, int(room / cost))
        if is_first:
            rows = max(rows, 1)
        self._room -= rows * cost
        if not is_urgent:
            self._room_behind_others -= rows * cost
        return rows
