"""Starts child processes, and limits what they may do.

A child runs the worker's own Python code without the worker's environment, which has the keys. Its
standard input is one end of a socket pair. The child ends when the other end is closed.
"""

import contextlib
import ctypes
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# Options of `prctl`, from <linux/prctl.h>.
SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38
# OpenBLAS would start threads, and a process with threads cannot be forked safely.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# The system closes a child's sockets a little before it reports that the child has ended.
ENDING_S = 1.0
# A child that was killed ends at once, unless it waits for a device that does not answer.
KILLED_S = 5.0


class Child:
    """One life of a child process, from its start until `end`."""

    def __init__(self, main: str, environment: Mapping[str, str] | None = None) -> None:
        """Run Python code in a process of its own. Raises OSError."""
        # Its user sets this once the child has reported that it has started.
        self.is_ready = False
        # Our end of its socket.
        self.line, theirs = socket.socketpair()
        path = [os.path.abspath(entry) for entry in sys.path if entry]
        try:
            with theirs:
                # In a session of its own: Ctrl-C in a terminal would end it before its work is
                # done.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {path!r}; {main}"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={**ONE_THREAD, **(environment or {})},
                    cwd="/",
                    start_new_session=True,
                )
        except OSError:
            self.line.close()
            raise

    @property
    def process_id(self) -> int:
        """The id of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether the process has ended by itself. Waits a moment for that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)
            return True
        return False

    def end(self) -> None:
        """End the process now."""
        self.line.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_S)


class KeptChild:
    """Starts a child when it is needed, and another one after that was lost.

    It has no lock: its user calls it from one thread at a time.
    """

    def __init__(
        self,
        main: str,
        environment: Mapping[str, str] | None = None,
        *,
        rest_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rest_s`: after a child that was never ready, no other one is started for so long."""
        self._main = main
        self._environment = environment
        self._rest_s = rest_s
        self._clock = clock
        self._rests_until_s = 0.0
        self._child: Child | None = None

    @property
    def process_id(self) -> int | None:
        """The id of the child's process; None while there is none."""
        child = self._child
        return None if child is None else child.process_id

    def get(self) -> Child:
        """The child; starts one if there is none. Raises OSError if it cannot be started now."""
        if self._child is None:
            if self._clock() < self._rests_until_s:
                raise OSError("the last one has just failed to start")
            try:
                self._child = Child(self._main, self._environment)
            except OSError:
                self._rests_until_s = self._clock() + self._rest_s
                raise
        return self._child

    def lose(self, child: Child) -> bool:
        """End a child that was lost. False: that is done, and there may be another one by now."""
        if child is not self._child:
            return False
        self.end()
        if not child.is_ready:
            self._rests_until_s = self._clock() + self._rest_s
        return True

    def end(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()


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


def give_up_rights() -> list[str]:
    """In a child: gain no rights from now on, and be traced by no other process.

    Returns what the platform allowed, for the log.
    """
    held = []
    if control_process(SET_NO_NEW_PRIVS, 1):
        held.append("no new privileges")
    if control_process(SET_DUMPABLE, 0):
        held.append("not traced")
    return held


def limit(memory_bytes: int, bounds: Mapping[int, tuple[int, int]]) -> bool:
    """In a child: set limits of resources, and allow so much more memory than it has now.

    `bounds`: soft and hard limit by kind. False: the memory cannot be limited here.
    """
    used_bytes = _memory_bytes()
    if used_bytes is not None:
        most = used_bytes + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for kind, limits in bounds.items():
        resource.setrlimit(kind, limits)
    return used_bytes is not None


def _memory_bytes() -> int | None:
    """The size of this process's address space; None where Linux does not report it."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return None


_LIBC = ctypes.CDLL(None)
