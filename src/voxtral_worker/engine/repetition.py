"""Detects a response that repeats itself without end."""

LONGEST_PERIOD = 32
REPEATS = 8


def is_runaway(token_ids: list[int]) -> bool:
    """Whether the response ends in the same run of up to 32 tokens, eight times in a row."""
    last = token_ids[-1]
    for period in range(1, LONGEST_PERIOD + 1):
        length = period * REPEATS
        if length > len(token_ids):
            return False
        # Cheap first: one comparison rules out nearly every period.
        if token_ids[-1 - period] != last:
            continue
        tail = token_ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False
