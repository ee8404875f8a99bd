"""Transcribes recordings by jobs of a RunPod queue endpoint, a few at once.

RunPod takes jobs of up to 20 MB by /runsync, so a file may have 14 MB.
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MOST_FILE_BYTES = 14_000_000
AT_ONCE = 4
# A cold start and the job itself; RunPod answers "IN_PROGRESS" before, if it takes longer.
WAIT_S = 600


class JobFailed(Exception):
    """A file was not transcribed; the message says why."""


def job_of(path: Path) -> dict[str, Any]:
    """The job for one recording. Raises JobFailed if the file is too large."""
    if path.stat().st_size > MOST_FILE_BYTES:
        raise JobFailed(f"larger than {MOST_FILE_BYTES} bytes: use audio_url instead")
    audio = base64.b64encode(path.read_bytes()).decode()
    return {"input": {"type": "transcribe", "audio_base64": audio}}


def transcribe(path: Path, endpoint: str, key: str) -> str:
    """The words of one recording; `endpoint` is its URL. Raises JobFailed."""
    request = urllib.request.Request(
        endpoint + "/runsync",
        json.dumps(job_of(path)).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            answer = json.load(response)
    except (OSError, ValueError) as error:
        raise JobFailed(str(error)) from error
    pieces = answer.get("output") or []
    if answer.get("status") != "COMPLETED" or not pieces or "text" not in pieces[-1]:
        raise JobFailed(f"the job is {answer.get('status')}: {answer.get('error') or pieces}")
    return str(pieces[-1]["text"])


def main(paths: list[Path], endpoint: str, key: str) -> int:
    """Print a line for each file; the exit status is 1 if one failed."""

    def line_of(path: Path) -> tuple[bool, str]:
        try:
            return True, transcribe(path, endpoint, key)
        except (JobFailed, OSError) as error:
            return False, f"failed: {error}"

    status = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, (is_good, line) in zip(paths, pool.map(line_of, paths), strict=True):
            print(f"{path}: {line}", file=sys.stdout if is_good else sys.stderr, flush=True)
            status |= not is_good
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint", help="the endpoint's id, or a URL that ends in it")
    parser.add_argument("files", nargs="+", type=Path, help="recordings of any kind")
    arguments = parser.parse_args()
    url = arguments.endpoint
    if "/" not in url:
        url = "https://api.runpod.ai/v2/" + url
    if not (api_key := os.environ.get("RUNPOD_API_KEY", "")):
        parser.error("RUNPOD_API_KEY is not set")
    sys.exit(main(arguments.files, url, api_key))
