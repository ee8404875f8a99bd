"""Starts child processes, and limits what they may do.

A child runs the worker's own Python code without the worker's environment, which has the keys. Its
standard input is one end of a socket pair. The child ends when the other end is closed.
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

# Options of `prctl`, from <linux/prctl.h>.
SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38
# OpenBLAS would start threads, and a process with threads cannot be forked safely.
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
            # In a session of its own: Ctrl-C in a terminal would end it before its work is done.
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
    """In a child: returns its socket, and a descriptor of /dev/null.

    Standard input and output become /dev/null, so that libraries that print do not write to the
    socket.
    """
    line = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    return line, null


def be_first_to_go() -> bool:
    """Make Linux end this process before others if memory runs out. False: it cannot be set."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("800")
        return True
    return False


def control_process(option: int, value: int) -> bool:
    """Call Linux's `prctl`. False: the system does not have it, or refuses."""
    prctl: Any = getattr(_LIBC, "prctl", None)
    return prctl is not None and prctl(option, value, 0, 0, 0) == 0


def memory_bytes() -> int | None:
    """The size of this process's address space; None where Linux does not report it."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return None


_LIBC = ctypes.CDLL(None)
