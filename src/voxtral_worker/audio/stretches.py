"""Parts of a recording."""

from typing import NamedTuple


class Stretch(NamedTuple):
    """The samples from `start` to before `end`."""

    start: int
    end: int
