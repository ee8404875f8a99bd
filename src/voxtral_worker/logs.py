"""Sets up the log: one line an event, as text or JSON."""

import json
import logging
import sys
import time
import warnings

from voxtral_worker.settings import Settings


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; a traceback is part of it."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(settings: Settings) -> None:
    """Log to standard error by the settings."""
    formatter: logging.Formatter = JsonFormatter()
    if settings.log_format == "text":
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s")
    formatter.converter = time.gmtime
    formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for library in ("asyncio", "transformers", "huggingface_hub", "httpx", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Known and harmless: torch's scripted modules, and its CUDA build without a GPU.
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    warnings.filterwarnings("ignore", message=".*CUDA initialization.*")
