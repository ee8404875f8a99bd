"""Reads and writes the result of `voxtral tail-check` for a checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from voxtral_worker.errors import BadInput
from voxtral_worker.json_text import read_json

# In the checkpoint's folder, or next to the hub's downloads, on the volume if there is one.
NAME = "tail-check.json"


def record_path(fingerprint: str) -> Path:
    """The file for the result, unless another one is named."""
    return Path(constants.HF_HOME) / "voxtral-worker" / f"tail-check-{fingerprint[:16]}.json"


def has_passed(folder: Path, fingerprint: str) -> bool:
    """Whether a record on this machine says that a check of exactly these weights has passed."""
    records = (_read(path) for path in (folder / NAME, record_path(fingerprint)))
    return any(
        record.get("fingerprint") == fingerprint and record.get("passed") is True
        for record in records
    )


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a result. A reader gets the old one or the new one, never a part.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    beside.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path.read_bytes(), str(path))
    except (OSError, BadInput):
        return {}
    return record if isinstance(record, dict) else {}
