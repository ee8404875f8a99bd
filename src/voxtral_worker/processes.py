"""Child processes: how one is started, and what it gives up.

A child runs Python code of the worker's own, with nothing of the worker's environment (where the
keys are). Its standard input is one end of a socket pair: it ends when the other end is closed.
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38
# OpenBLAS would bring threads, and no fork.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def spawn(
    main: str, environment: Mapping[str, str] | None = None
) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Run Python code in a process of its own; returns our end of its socket.

    Raises OSError.
    """
    ours, theirs = socket.socketpair()
    path = [os.path.abspath(entry) for entry in sys.path if entry]
    try:
        with theirs:
            # A new session, as a terminal's Ctrl-C would end it before its work.
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {path!r}; {main}"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**ONE_THREAD, **(environment or {})},
                cwd="/",
                start_new_session=True,
            )
    except OSError:
        ours.close()
        raise
    return ours, process


def take_socket() -> tuple[socket.socket, int]:
    """In the child: its socket, out of the way of libraries that print, and /dev/null."""
    line = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    return line, null


def be_first_to_go() -> bool:
    """When memory runs out this process is ended before others; False where it cannot be."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("800")
        return True
    return False


def control_process(option: int, value: int) -> bool:
    """Linux's `prctl`; False where there is none, or it does not let us."""
    prctl: Any = getattr(_LIBC, "prctl", None)
    return prctl is not None and prctl(option, value, 0, 0, 0) == 0


def memory_bytes() -> int | None:
    """Addresses that this process uses now; None where Linux does not say."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return None


_LIBC = ctypes.CDLL(None)
