"""Measures time and memory on a device."""

import gc
import resource
import sys
import time
from collections.abc import Callable

import torch

REPEATS = 20
GIB = 2**30


def timed(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median seconds of a piece of work, with the device's queue empty before and after."""
    times = []
    for _ in range(repeats + 2):
        synchronize(device)
        started_s = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started_s)
    return sorted(times[2:])[repeats // 2]


def in_ms(seconds: float) -> str:
    """A time in ms, as the tables show it."""
    return f"{1000 * seconds:.2f} ms"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def free(device: torch.device) -> None:
    """Release unused memory. An engine is part of a reference cycle, so garbage is collected."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """The card's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


def memory(device: torch.device) -> str:
    """What is and was in use: the process, and on a GPU the device too."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In KiB on Linux, in bytes on a Mac.
    process = f"process at most {most * (1 if sys.platform == 'darwin' else 1024) / GIB:.1f} GiB"
    if device.type == "cpu":
        return process
    free_bytes, total = torch.cuda.mem_get_info(device)
    return (
        f"allocated {torch.cuda.memory_allocated(device) / GIB:.1f} GiB, "
        f"at most {torch.cuda.max_memory_allocated(device) / GIB:.1f}, "
        f"reserved {torch.cuda.memory_reserved(device) / GIB:.1f}, "
        f"card {(total - free_bytes) / GIB:.1f} of {total / GIB:.1f} in use, {process}"
    )
