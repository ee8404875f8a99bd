"""How much of the prompts one step may compute.

A step holds up every answer that is being spoken, so a long prompt is taken in parts. What
a part costs grows with the context before it, which it attends to.
"""

from typing import Any

# Prompt tokens without context that one step computes.
MOST_ROWS = 512
# For whom nobody waits as long as somebody else does.
MOST_ROWS_BEHIND_OTHERS = 128
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


class PrefillBudget:
    """What is left of one step's work, in rows without context; the same for every step."""

    def __init__(self, context_per_row: float) -> None:
        self._context_per_row = context_per_row
        self._room = float(MOST_ROWS)
        self._room_behind_others = float(MOST_ROWS_BEHIND_OTHERS)

    def take(self, most: int, context: int, *, is_urgent: bool) -> int:
        """Rows, 0 to `most`, that may follow `context` tokens of a prompt in this step.

        The first prompt of a step gets at least one row, however long its context is.
        """
        is_first = self._room == MOST_ROWS
        room = self._room if is_urgent else min(self._room, self._room_behind_others)
        cost = 1 + context / self._context_per_row
        rows = min(most, int(room / cost))
        if is_first:
            rows = max(rows, 1)
        self._room -= rows * cost
        if not is_urgent:
            self._room_behind_others -= rows * cost
        return rows
