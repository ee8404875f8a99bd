"""Lets the C library give large blocks back to the system as soon as they are free.

By default it learns from the first large block that is freed, keeps the next ones in its heaps, one
for each thread, and these stay as large as they ever were: after a minute of large bodies a
worker took 800 MiB more, for good.
"""

import ctypes
import sys

# Of <malloc.h>.
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
# Bodies, recordings and spectra are larger, what a step of the model needs on a CPU is not.
LARGE_BYTES = 4 << 20
# The event loop, the engine, the VAD and work aside share these.
MOST_ARENAS = 4


def give_large_blocks_back() -> bool:
    """Set it for this process; False where the C library cannot be told (it is not glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in ((M_MMAP_THRESHOLD, LARGE_BYTES), (M_ARENA_MAX, MOST_ARENAS))
    )
