"""How much one step may compute: windows of audio, and tokens of prompts.

A step holds up every answer that is being spoken, so that a long prompt is taken in parts. What
a part costs grows with the context before it, which it attends to; how long it takes depends
on the device, and is measured at the start.
"""

import math
from typing import Any

# Prompt tokens without context that one step computes, where nothing was measured.
MOST_ROWS = 512
# Share of them for whom nobody waits, as long as somebody else does.
SHARE_BEHIND_OTHERS = 1 / 4
# How long voices may be silent for windows, and for prompts; a faster device computes more.
WINDOWS_STEP_S = 0.030
ROWS_STEP_S = 0.025
MOST_WINDOWS = 8
# Attention reaches about this share of the speed of plain products.
ATTENTION_EFFICIENCY = 1 / 3


def context_per_row(config: Any) -> float:
    """Tokens of context that cost a row as much as its own products; of the text model's config.

    A row takes two operations a weight, and four a token of context for every element of its
    heads in every layer.
    """
    head_width = config.num_attention_heads * config.head_dim
    kv_width = config.num_key_value_heads * config.head_dim
    size = config.hidden_size
    weights = 2 * size * (head_width + kv_width) + 3 * size * config.intermediate_size
    return float(2 * weights / (4 * head_width) * ATTENTION_EFFICIENCY)


def windows_a_step(window_s: float) -> int:
    """Windows, 1 to 8, that a device encodes in one step; one takes it `window_s`."""
    return _power_of_two(min(max(WINDOWS_STEP_S / window_s, 1.0), float(MOST_WINDOWS)))


def rows_a_step(step_s: float) -> int:
    """Prompt tokens, 256 to 2,048, that a device computes in one step; 512 take it `step_s`."""
    return _power_of_two(MOST_ROWS * min(max(ROWS_STEP_S / step_s, 0.5), 4.0))


def _power_of_two(most: float) -> int:
    # Libraries choose their kernels by size, and the encoder is recorded at these.
    return int(2 ** math.floor(math.log2(most)))


class PrefillBudget:
    """What is left of one step's work, in rows without context; the same for every step."""

    def __init__(self, context_per_row: float, most_rows: int = MOST_ROWS) -> None:
        self._context_per_row = context_per_row
        self._most_rows = most_rows
        self._room = float(most_rows)
        self._room_behind_others = most_rows * SHARE_BEHIND_OTHERS

    def take(self, most: int, context: int, *, is_urgent: bool) -> int:
        """Rows, 0 to `most`, that may follow `context` tokens of a prompt in this step.

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
