"""Downloads a hub model: resumes after a break, and logs its progress."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars

from voxtral_worker.checkpoint import UNWANTED, WANTED

log = logging.getLogger(__name__)

TELL_EVERY_S = 10.0
LOOK_EVERY_S = 1.0
Note = Callable[[int, int], None]


def download(
    model_id: str, revision: str | None, *, endpoint: str | None = None, note: Note | None = None
) -> Path:
    """Download the missing files of a hub model; returns the folder with all files.

    Logs percent and rate where there is no terminal, and the commit that was taken. `note` gets
    the bytes that are here and all of them, once a second and at the end. Raises the errors of
    the hub's client.
    """
    api = HfApi(endpoint=endpoint)
    info = api.model_info(model_id, revision=revision, files_metadata=True)
    wanted = filter_repo_objects(
        info.siblings or [],
        allow_patterns=WANTED,
        ignore_patterns=UNWANTED,
        key=lambda file: file.rfilename,
    )
    total = sum(file.size or 0 for file in wanted)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"
    with _told(folder / "blobs", total, note):
        path = snapshot_download(
            model_id,
            revision=info.sha or revision,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            endpoint=endpoint,
        )
    if note is not None:
        note(total, total)
    log.info("model %s is taken at commit %s", model_id, info.sha)
    return Path(path)


def progress(have: int, total: int, rate: float) -> str:
    """A line about a download: bytes that are there, bytes in all, and bytes a second."""
    share = f"{100 * min(have, total) / total:.0f} %" if total else "?"
    return f"{share} of {total / 1e9:.2f} GB, {rate / 1e6:.1f} MB a second"


@contextmanager
def _told(blobs: Path, total: int, note: Note | None) -> Iterator[None]:
    """While open: a line every few seconds, or the client's own bars on a terminal; and `note`."""
    has_bars = sys.stderr.isatty()
    if not has_bars:
        disable_progress_bars()
    is_over = threading.Event()
    teller = threading.Thread(
        target=_tell,
        args=(blobs, total, is_over, note, not has_bars),
        name="download progress",
        daemon=True,
    )
    teller.start()
    try:
        yield
    finally:
        is_over.set()
        teller.join(2 * LOOK_EVERY_S)


def _tell(blobs: Path, total: int, is_over: threading.Event, note: Note | None, logs: bool) -> None:
    have, since_s, is_first = _bytes_in(blobs), time.monotonic(), True
    while True:
        now, now_s = _bytes_in(blobs), time.monotonic()
        if note is not None:
            note(min(now, total) if total else now, total)
        if logs and (is_first or now_s - since_s >= TELL_EVERY_S):
            rate = max(0, now - have) / max(now_s - since_s, LOOK_EVERY_S)
            log.info("download: %s", progress(now, total, rate))
            have, since_s, is_first = now, now_s, False
        if is_over.wait(LOOK_EVERY_S):
            return


def _bytes_in(blobs: Path) -> int:
    """Bytes of whole and of begun files; a file that is renamed during this counts as 0."""
    have = 0
    for file in blobs.glob("*"):
        try:
            have += file.stat().st_size
        except OSError:
            continue
    return have
