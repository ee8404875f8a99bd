"""Reads JSON from callers, in limited time.

Python's parser lets no other thread run until it is done. It makes an object for each list, and
24 MiB of empty lists are eight million objects: the whole worker would stand still for 27 s. So
brackets and commas are counted first, which takes 1 ms per MiB.
"""

import json
from typing import Any

from voxtral_worker.errors import BadInput

# Far more than a real message has, even with brackets in its texts. Parsing so many takes 10 ms.
MAX_CONTAINERS = 1 << 16
# Parsing so many numbers takes 50 ms.
MAX_VALUES = 1 << 18


def read_json(text: str | bytes, what: str) -> Any:
    """The value of a JSON text. Raises BadInput whose sentence begins with `what`.

    Brackets and commas within strings count too: to skip strings takes as long as parsing.
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
