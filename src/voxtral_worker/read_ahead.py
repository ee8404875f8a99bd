"""Reads the weights' files while nothing else needs the disk, so that loading finds them in memory.

Weights are mapped, not read: a page comes from the disk when it is first touched, which is slow on
a network's volume. The libraries take seconds to import, in which the disk is idle.
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

PART_BYTES = 8 << 20


def files_to_read(settings: Settings) -> list[Path]:
    """The weights' files that will be loaded, as far as that is known without PyTorch."""
    model_id = settings.model_id or (RELEASED_MODEL if settings.runs_on_runpod else None)
    if model_id is None:
        return []
    if is_local(model_id):
        return weight_files(Path(model_id))
    folder = find_cached(model_id, settings.model_revision)
    return [] if folder is None else weight_files(folder)


@contextmanager
def reading_ahead(files: Sequence[Path]) -> Iterator[None]:
    """While it is open, a thread reads the files to their end, one after the other.

    What does not fit into the machine's free memory is not begun: it would push out what was read.
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
    """Bytes that were read until the end, or until `stopping` is set; errors end it quietly."""
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
        # Whoever loads the file says what is wrong with it.
        log.debug("the weights cannot be read ahead: %s", error)
    return total


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
