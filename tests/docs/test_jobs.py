"""The jobs and scripts of the pages about RunPod, which need an endpoint to be run whole."""

import ast
import json
import shlex

import pytest

from tests.support.doc_blocks import Block, blocks_of
from voxtral_worker.jobs.schema import read_input

PAGES = ("docs/deploy.md", "docs/runpod.md")
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def jobs_of(code: str) -> list[dict[str, object]]:
    """What the commands of a block send as JSON."""
    words = shlex.split(code.replace("\\\n", " "), comments=True)
    after = [word for before, word in zip(words, words[1:], strict=False) if before == "-d"]
    return [json.loads(word) for word in after if not word.startswith("@")]


WITH_JOBS = [block for block in BLOCKS if block.language == "bash" and jobs_of(block.code)]


def test_both_pages_show_jobs() -> None:
    assert {block.document for block in WITH_JOBS} == set(PAGES)


@pytest.mark.parametrize("block", WITH_JOBS, ids=str)
def test_a_job_that_is_shown_is_one_that_the_worker_takes(block: Block) -> None:
    for job in jobs_of(block.code):
        assert read_input(job["input"])


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_a_script_that_is_shown_can_be_compiled(block: Block) -> None:
    assert ast.parse(block.code).body
