"""The decoder's processes: a fork server, and one child of it for each file.

The fork server has loaded FFmpeg's libraries, and nothing of the model or the server. Forking a
child takes milliseconds. A child decodes one file and exits, so a file that crashes or takes over
its decoder does no harm to other files or to the worker.

For each file the worker passes one end of a socket pair to the fork server. The child reads the
file from it and writes the samples to it. If the child dies, the fork server answers in its place.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import av

from voxtral_worker import processes
from voxtral_worker.audio.decoder.media import read_sound
from voxtral_worker.audio.decoder.mono import Samples
from voxtral_worker.audio.decoder.wire import (
    ANSWER,
    BAD,
    BROKEN,
    CRASHED,
    REQUEST,
    SOUND,
    TIMED_OUT,
    TOO_LONG,
)
from voxtral_worker.errors import BadAudio, TooLarge

Read: TypeAlias = Callable[[bytes, float], list[Samples]]

# The user and group `nobody` on Linux.
NOBODY = 65_534
# How often the fork server looks whether a child has ended, while one runs.
REAP_S = 0.02


@dataclass(frozen=True)
class Limits:
    """The resources that decoding one file may use."""

    # In addition to what the process uses before it reads the file.
    memory_bytes: int = 512 << 20
    cpu_s: int = 60
    wall_s: float = 120.0


@dataclass(frozen=True)
class Running:
    """A child that is decoding a file."""

    line: socket.socket
    deadline_s: float


def main(read: Read = read_sound, limits: Limits | None = None) -> None:
    """Serve the worker until it closes its socket, which is this process's standard input."""
    control, null = processes.take_socket()
    # In this order: loading opens files, which `_give_up_rights` and `_confine` make impossible.
    _load_all()
    held = _give_up_rights()
    # ConnectionError: the worker has gone; the loop in `run` will notice it and end.
    with contextlib.suppress(ConnectionError):
        control.sendall(json.dumps(held).encode() + b"\n")
    ForkServer(control, null, read, limits or Limits()).run()


class ForkServer:
    """Owns the children: it reaps each one, and kills it when its time is over."""

    def __init__(self, control: socket.socket, null: int, read: Read, limits: Limits) -> None:
        self._control = control
        self._null = null
        self._read = read
        self._limits = limits
        # By process id.
        self._running: dict[int, Running] = {}

    def run(self) -> None:
        """Take files until the worker has closed its socket."""
        while True:
            timeout_s = REAP_S if self._running else None
            ready, _, _ = select.select([self._control], [], [], timeout_s)
            if ready:
                message, descriptors = self._next()
                if not message:
                    break
                for descriptor in descriptors:
                    self._take(socket.socket(fileno=descriptor))
            self._look_after()
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)

    def _next(self) -> tuple[bytes, list[int]]:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        except ConnectionError:
            return b"", []
        return message, descriptors

    def _take(self, line: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError:
            _tell(line, CRASHED)
            return
        if pid:
            self._running[pid] = Running(line, time.monotonic() + self._limits.wall_s)
            return
        code = 1
        try:
            # The child inherits all open sockets. Close those over which other callers' files
            # come, before it reads its own file.
            for other in self._running.values():
                other.line.close()
            self._control.close()
            os.dup2(self._null, 2)
            _confine(self._limits)
            _decode(line, self._read)
            code = 0
        finally:
            os._exit(code)

    def _look_after(self) -> None:
        for pid, child in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._running[pid]
                if status:
                    _tell(child.line, _reason(status))
                child.line.close()
            elif time.monotonic() > child.deadline_s or _has_hung_up(child.line):
                # Reaped, and answered for, at a later look.
                os.kill(pid, signal.SIGKILL)


def _has_hung_up(line: socket.socket) -> bool:
    poll = select.poll()
    poll.register(line, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _reason(status: int) -> int:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    # The fork server sends SIGKILL when the wall time is over; the kernel sends SIGXCPU when the
    # processor time is.
    return TIMED_OUT if number in (signal.SIGKILL, signal.SIGXCPU) else CRASHED


def _decode(line: socket.socket, read: Read) -> None:
    """Read one file from the socket, decode it and write the answer."""
    max_seconds, length = REQUEST.unpack(_receive(line, REQUEST.size))
    try:
        pieces = read(bytes(_receive(line, length)), max_seconds)
    except TooLarge as error:
        _tell(line, TOO_LONG, error.message.encode())
    except BadAudio as error:
        _tell(line, BAD, error.message.encode())
    except MemoryError:
        _tell(line, BAD, b"audio cannot be decoded: it takes too much memory")
    except Exception as error:  # noqa: BLE001 - the worker logs it and answers the caller
        _tell(line, BROKEN, f"{type(error).__name__}: {error}"[:1000].encode())
    else:
        line.sendall(ANSWER.pack(SOUND, sum(piece.nbytes for piece in pieces)))
        for piece in pieces:
            line.sendall(piece.data)


def _receive(line: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = line.recv_into(view)
        if not count:
            # The worker has hung up: no one waits for the answer.
            os._exit(0)
        view = view[count:]
    return data


def _tell(line: socket.socket, kind: int, text: bytes = b"") -> None:
    with contextlib.suppress(OSError):
        line.sendall(ANSWER.pack(kind, len(text)) + text)


def _load_all() -> None:
    """Load all libraries now. Confined children cannot open files, so cannot load them later."""
    # PyAV loads some parts only when a file has subtitles, pictures or faults. Decoding a file
    # loads the rest.
    for part in pkgutil.walk_packages(av.__path__, "av."):
        if not part.name.endswith("__main__"):
            importlib.import_module(part.name)
    read_sound(_TINY_WAV, 1.0)


def _give_up_rights() -> list[str]:
    """Give up all rights for good. Returns what this platform allowed to give up, for the log."""
    held = []
    # Live turns need the processor more. If memory runs out, the kernel should end this process
    # and not the worker.
    os.nice(5)
    if processes.be_first_to_go():
        held.append("first to go")
    os.chdir("/")
    if os.getuid() == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            held.append("other user")
    # After the change of user, which resets whether this process can be traced.
    return held + processes.give_up_rights()


def _confine(limits: Limits) -> None:
    """Allow this process no more memory than its limit, and no new file, socket or process."""
    processes.control_process(processes.SET_PDEATHSIG, signal.SIGKILL)
    processes.limit(
        limits.memory_bytes,
        {
            resource.RLIMIT_CPU: (limits.cpu_s, limits.cpu_s + 1),
            resource.RLIMIT_FSIZE: (0, 0),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_NPROC: (0, 0),
            # Open descriptors stay open; no new one can be opened.
            resource.RLIMIT_NOFILE: (0, 0),
        },
    )


# Two samples of silence at 8 kHz.
_TINY_WAV = (
    b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0"
    b"\2\0\x10\0data\4\0\0\0\0\0\0\0"
)
