"""Reads JSON that a caller sent, in a time that its size bounds.

The parser makes an object of each list in a text and does not let another thread run before it
is done: 24 MiB of empty lists are eight million objects, and 27 s without an answer for anybody. So
what stands in the text is counted first, which takes a millisecond for each MiB.
"""

import json
from typing import Any

from voxtral_worker.errors import BadInput

# More than any message has, texts full of brackets included. The parser takes 10 ms for it.
MAX_CONTAINERS = 1 << 16
# As many numbers take it 50 ms.
MAX_VALUES = 1 << 18


def read_json(text: str | bytes, what: str) -> Any:
    """The value of a JSON text. Raises BadInput whose sentence begins with `what`.

    Brackets and commas within texts count too: telling them apart takes as long as parsing.
    """
    marks = "[{," if isinstance(text, str) else (b"[", b"{", b",")
    lists, objects, commas = (text.count(mark) for mark in marks)  # type: ignore[arg-type]
    if lists + objects > MAX_CONTAINERS:
        raise BadInput(f"{what} has more than {MAX_CONTAINERS} opening brackets")
    if commas > MAX_VALUES:
        raise BadInput(f"{what} has more than {MAX_VALUES} commas")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput(f"{what} is not JSON") from None
