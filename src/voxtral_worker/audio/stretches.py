"""Parts of a recording."""

from typing import NamedTuple


class Stretch(NamedTuple):
    """The samples from `start` up to, and without, `end`."""

    start: int
    end: int
