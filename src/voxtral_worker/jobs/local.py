"""Runs one job on this machine, to its end, without RunPod.

The SDK's own local run does not work here: it calls an async generator handler without iterating
over it, reports success and exits with 0.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.mode import read_flags
from voxtral_worker.jobs.outlet import Piece
from voxtral_worker.settings import REPOSITORY

TEST_INPUT = "test_input.json"


def run_local(handler: JobHandler, argv: Sequence[str]) -> int:
    """Run the job of `--test_input` or of `test_input.json`, and print its output as JSON.

    Returns the exit code: 1 if the job failed or cannot be read.
    """
    try:
        job = _read_job(read_flags(argv).test_input)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot run a test job: {error}\n")
        return 1
    output = asyncio.run(_collect(handler, job))
    failure = output[-1].get("error") if output else None
    if failure is not None:
        sys.stderr.write(f"the test job failed: {failure}\n")
        return 1
    sys.stdout.write(json.dumps(output, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return 0


async def _collect(handler: JobHandler, job: dict[str, Any]) -> list[Piece]:
    return [piece async for piece in handler.handle(job)]


def _read_job(text: str | None) -> dict[str, Any]:
    """The job in a JSON text; None: in the file of this folder, else of the repository.

    Raises OSError or ValueError with a reason.
    """
    if text is None:
        here = Path(TEST_INPUT)
        text = (here if here.is_file() else REPOSITORY / TEST_INPUT).read_text("utf-8")
    job = json.loads(text)
    if not isinstance(job, dict) or "input" not in job:
        raise ValueError('a job is an object with the key "input"')
    return {"id": "local_test", **job}
