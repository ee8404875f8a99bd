"""Writes the log: one line an event, as text or JSON, with the ids of what it is about.

The ids travel in a context variable, so that whatever code runs on behalf of a request, a
session or a job logs them without being told.
"""

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from types import MappingProxyType
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from voxtral_worker.settings import Settings

_IDS: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default=MappingProxyType({}))
# Characters that would break a line, or the terminal it is read on.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_LIBRARIES = ("asyncio", "transformers", "huggingface_hub", "httpx", "urllib3")


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Lines logged within carry these ids, beside those of what is around it."""
    token = _IDS.set({**_IDS.get(), **ids})
    try:
        yield
    finally:
        _IDS.reset(token)


def context_about(**ids: str) -> Context:
    """A new context for a task: its lines carry these ids, whoever has started it."""
    context = Context()
    context.run(_IDS.set, ids)
    return context


def add_ids(record: logging.LogRecord) -> bool:
    """A filter that keeps every line and adds the ids; those given with it go before."""
    for name, value in _IDS.get().items():
        record.__dict__.setdefault(name, value)
    return True


class TextFormatter(logging.Formatter):
    """For people: time, level, message, fields. Only a traceback takes more than one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line without a traceback."""
        fields = merge_record_extra(record, {}, RESERVED_ATTRS)
        message = super().formatMessage(record).translate(_CONTROLS)
        return " ".join([message, *(f"{name}={_shown(value)}" for name, value in fields.items())])


def _shown(value: object) -> str:
    """A value as one word: what could break the line, or pass for a field, is quoted."""
    text = str(value)
    is_plain = text.isprintable() and text.isascii() and not set(text) & {" ", '"', "="}
    return text if is_plain and text else json.dumps(text)


def _formatter(settings: Settings) -> logging.Formatter:
    if settings.log_format == "text":
        return TextFormatter("%(asctime)s %(levelname)s %(message)s")
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={
            "asctime": "time",
            "levelname": "level",
            "name": "logger",
            "exc_info": "traceback",
        },
        json_default=str,
        # A reader may take other characters than \n for the end of a line.
        json_ensure_ascii=True,
    )


def set_up_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Log by the settings, to standard error unless told where."""
    formatter = _formatter(settings)
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(add_ids)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    # Known and harmless: torch's scripted modules, and its CUDA build without a GPU.
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    warnings.filterwarnings("ignore", message=".*CUDA initialization.*")
