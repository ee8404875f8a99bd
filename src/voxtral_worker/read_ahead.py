"""Reads the files of the weights during the start, so that loading finds them in memory.

Loading maps the files: each page comes from the disk when it is first used, which is slow on a
network volume. Importing the libraries takes seconds in which the disk is idle, so the files are
read then, into the page cache of the operating system.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from voxtral_worker.checkpoint import find_cached, is_local, weight_files
from voxtral_worker.settings import RELEASED_MODEL, Settings

log = logging.getLogger(__name__)

# Size of one read.
PART_BYTES = 8 << 20


def files_to_read(settings: Settings) -> list[Path]:
    """The files of the weights that will be loaded, if they are already on this machine."""
    model_id = settings.model_id or (RELEASED_MODEL if settings.runs_on_runpod else None)
    if model_id is None:
        return []
    if is_local(model_id):
        return weight_files(Path(model_id))
    folder = find_cached(model_id, settings.model_revision)
    return [] if folder is None else weight_files(folder)


@contextmanager
def reading_ahead(files: Sequence[Path]) -> Iterator[None]:
    """Read the files on a thread, one after the other, for the length of the `with` block.

    A file larger than the free memory is not read: it would push out what was read before.
    """
    stopping = threading.Event()
    thread = threading.Thread(target=read, args=(files, stopping), name="read-ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def read(files: Sequence[Path], stopping: threading.Event) -> int:
    """Read the files until `stopping` is set. Returns the bytes read. Never raises OSError."""
    buffer = bytearray(PART_BYTES)
    total = 0
    try:
        for path in files:
            if path.stat().st_size > _free_bytes():
                return total
            with path.open("rb", buffering=0) as file:
                while not stopping.is_set() and (count := file.readinto(buffer)):
                    total += count
    except OSError as error:
        # Not reported: loading the file will fail with a better error.
        log.debug("the weights cannot be read ahead: %s", error)
    return total


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
