"""Writes the log: one line for each event, as text or JSON, with the ids it is about.

The ids are in a context variable. So all code that runs for a request, a session or a job logs
its id, without getting it as an argument.
"""

import hashlib
import io
import json
import logging
import queue
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from types import MappingProxyType, TracebackType
from typing import TextIO, TypeAlias

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from voxtral_worker import metrics

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)
_IDS: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default=MappingProxyType({}))
# Control characters, which could forge a line or change the reader's terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
# Lines that wait for a slow reader of the log; more lines are dropped and counted.
QUEUED_LINES = 10_000
# At its end the process waits at most so long until the last lines are written.
FLUSH_S = 2.0
_SESSION_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
# Libraries that log only warnings and errors.
_LIBRARIES = ("asyncio", "transformers", "huggingface_hub", "httpx", "urllib3")


def session_mark(session_id: str) -> str:
    """The name of a session in logs and traces: the first 12 digits of its id's SHA-256.

    It is not the id, because on a worker without credentials the id alone opens the session, and
    readers of the log must not learn it. All workers make the same mark of the same id.
    """
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def hide_session_ids(text: str) -> str:
    """Replace the ids of sessions in a text by their marks."""
    return _SESSION_ID.sub(lambda found: session_mark(found[0].lower()), text)


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Add these ids to all lines that are logged within the `with` block."""
    token = _IDS.set({**_IDS.get(), **ids})
    try:
        yield
    finally:
        _IDS.reset(token)


def context_about(**ids: str) -> Context:
    """A new context for a task whose lines have these ids, and none of the task that starts it."""
    context = Context()
    context.run(_IDS.set, ids)
    return context


def add_ids(record: logging.LogRecord) -> bool:
    """A filter that keeps every line and adds the ids. Ids of the line itself have priority."""
    for name, value in _IDS.get().items():
        record.__dict__.setdefault(name, value)
    return True


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, message, fields. Only a traceback has more than one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line, without a traceback."""
        fields = merge_record_extra(record, {}, RESERVED_ATTRS)
        message = super().formatMessage(record).translate(_CONTROLS)
        return " ".join([message, *(f"{name}={_shown(value)}" for name, value in fields.items())])

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the library's name
        """The traceback, with marks in place of session ids."""
        return hide_session_ids(super().formatException(ei))


class JsonLines(JsonFormatter):
    """Lines for programs: one JSON object each."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the library's name
        """The traceback, with marks in place of session ids."""
        return hide_session_ids(logging.Formatter.formatException(self, ei))


def _shown(value: object) -> str:
    """A value as one word. It is quoted if it could break the line or look like a field."""
    text = str(value)
    is_plain = text.isprintable() and text.isascii() and not set(text) & {" ", '"', "="}
    return text if is_plain and text else json.dumps(text)


def _formatter(form: str) -> logging.Formatter:
    if form == "text":
        return TextFormatter("%(asctime)s %(levelname)s %(message)s")
    return JsonLines(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={
            "asctime": "time",
            "levelname": "level",
            "name": "logger",
            "exc_info": "traceback",
        },
        json_default=str,
        # Some readers end a line at other characters than \n, such as U+2028.
        json_ensure_ascii=True,
    )


class BackgroundHandler(logging.Handler):
    """Writes lines on a thread of its own, so that logging never waits for a reader of the log.

    The thread is a daemon, so that the process can exit even if nothing reads its pipe.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(QUEUED_LINES)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format and queue a line. Formatted now, because its arguments may change later."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            metrics.log_lines_dropped.inc()
        except Exception:  # noqa: BLE001 - as in every handler; it prints the traceback
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all queued lines are written, at most `FLUSH_S`."""
        deadline_s = time.monotonic() + FLUSH_S
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left_s := deadline_s - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left_s)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # The reader of the log has gone.
                metrics.log_lines_dropped.inc()
            finally:
                self._lines.task_done()


def _own_standard_error() -> TextIO:
    """Standard error without the buffer of `sys.stderr`.

    That buffer has a lock, which a write that never returns would hold. Python aborts at its exit
    if it cannot get the lock.
    """
    raw = io.FileIO(sys.stderr.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw,
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Set up logging to `stream`, or to standard error in the background.

    The form of the lines is `text` or `json`.
    """
    formatter = _formatter(form)
    # UTC with milliseconds, as in RFC 3339.
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    handler: logging.Handler
    if stream is None:
        handler = BackgroundHandler(_own_standard_error())
    else:
        handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(add_ids)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    # Known and harmless: torch's scripted modules, and its CUDA build without a GPU.
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    warnings.filterwarnings("ignore", message=".*CUDA initialization.*")
