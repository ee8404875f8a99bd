"""What a process writes: into folders, seen by the kernel, and into files that it holds open."""

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_MODIFY, _CREATE, _MOVED_TO = 0x2, 0x100, 0x80
_HEADER = struct.Struct("iIII")


class FolderWatch:
    """Every file created or written in some folders, also one that is gone again."""

    def __init__(self, folders: Iterable[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._number = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._number >= 0, os.strerror(ctypes.get_errno())
        for folder in folders:
            mask = _MODIFY | _CREATE | _MOVED_TO
            assert libc.inotify_add_watch(self._number, bytes(folder), mask) >= 0, folder

    def names(self) -> set[str]:
        """Names of the files since the last call."""
        found: set[str] = set()
        while True:
            try:
                events = os.read(self._number, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(events):
                *_, length = _HEADER.unpack_from(events, at)
                at += _HEADER.size
                found.add(events[at : at + length].rstrip(b"\0").decode())
                at += length

    def close(self) -> None:
        os.close(self._number)


def held_files(process: int) -> dict[str, bytes]:
    """Contents of the regular files that a process has open for writing, also of removed ones."""
    held = {}
    for link in Path(f"/proc/{process}/fd").iterdir():
        # A file that was closed since then is not held any more.
        with suppress(FileNotFoundError):
            flags = Path(f"/proc/{process}/fdinfo/{link.name}").read_text().splitlines()[1]
            is_written = int(flags.split()[1], 8) & (os.O_WRONLY | os.O_RDWR)
            if is_written and link.is_file():
                held[os.readlink(link)] = link.read_bytes()
    return held
