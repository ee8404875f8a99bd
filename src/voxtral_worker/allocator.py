"""Makes the C library return large blocks of memory to the system as soon as they are free.

By default glibc raises its threshold with the first large block that is freed. It then keeps large
blocks in its heaps, one for each thread, and these never shrink: after a minute of large request
bodies, a worker took 800 MiB more memory until its end.
"""

import ctypes
import sys

# From <malloc.h>.
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
# Request bodies, recordings and spectra are larger than this. What a step of the model needs on a
# CPU is smaller, and stays in the heap, which is faster.
LARGE_BYTES = 4 << 20
# Heaps that all threads share: the event loop, the engine, the VAD and helper threads.
MOST_ARENAS = 4


def give_large_blocks_back() -> bool:
    """Set it for this process. False: the C library is not glibc, and cannot be set."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in ((M_MMAP_THRESHOLD, LARGE_BYTES), (M_ARENA_MAX, MOST_ARENAS))
    )
