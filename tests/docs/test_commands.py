"""Commands that are shown where no test can run them whole: all that they name is there."""

import re
import shlex

import pytest

from tests.docs.test_jobs import PAGES as PAGES_OF_JOBS
from tests.support.doc_blocks import DOCUMENTS, Block, blocks_of
from voxtral_worker.settings import REPOSITORY

OTHERS = sorted(
    {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")} - set(DOCUMENTS)
)
BLOCKS = [block for page in OTHERS for block in blocks_of(page)]
COMMANDS = [block for block in BLOCKS if block.language in ("bash", "sh", "")]
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
PROJECT = (REPOSITORY / "pyproject.toml").read_text("utf-8")


def test_every_block_of_the_other_pages_is_of_a_kind_that_is_checked() -> None:
    elsewhere = {"mermaid", "markdown"}
    jobs = [block for block in BLOCKS if block.document in PAGES_OF_JOBS]
    kinds = {block.language for block in BLOCKS} - elsewhere - {"bash", "sh", ""}
    assert kinds - {"json"} == {block.language for block in jobs if block.language == "python"}
    assert COMMANDS


def test_every_block_of_json_is_json() -> None:
    blocks = [block for block in BLOCKS if block.language == "json"]
    assert blocks
    assert all(block.messages() for block in blocks)


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_what_a_command_names_is_there(block: Block) -> None:
    """A target of make, a module of ours, a file of requirements, a file of the repository."""
    if block.document == "docs/architecture.md":
        return
    made: set[str] = set()
    for line in block.code.replace("\\\n", " ").splitlines():
        made |= set(re.findall(r"> (\S+)$", line))
        targets = re.findall(r"^make ([a-z-]+)", line)
        modules = re.findall(r"-m ((?:builder|bench|voxtral_worker)[\w.]*)", line)
        listed = re.findall(r"-r ([\w./-]+)", line)
        assert [t for t in targets if not re.search(rf"^{t}:", MAKEFILE, re.MULTILINE)] == []
        for module in modules:
            root = REPOSITORY / "src" if module.startswith("voxtral") else REPOSITORY
            place = root.joinpath(*module.split("."))
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
        missing = [name for name in listed if not (REPOSITORY / name).is_file()]
        assert [name for name in missing if name not in made] == []
        if line.startswith("python "):
            assert (REPOSITORY / shlex.split(line, comments=True)[1]).is_file()


def test_the_tree_of_the_architecture_names_what_is_there() -> None:
    tree = next(b for b in BLOCKS if b.document == "docs/architecture.md" and not b.language)
    source = REPOSITORY / "src" / "voxtral_worker"
    named = re.findall(
        r"(?<![\w/])([a-z_]+(?:\.py|/))", tree.code.replace("src/voxtral_worker/", "")
    )
    assert len(named) > 10
    gone = [
        name for name in named if not ((source / name).exists() or (REPOSITORY / name).exists())
    ]
    assert gone == []


def test_the_picture_of_the_threads_is_one_that_mermaid_draws() -> None:
    """Every box that an arrow names has been given a label, and brackets are closed."""
    [picture] = [block for block in BLOCKS if block.language == "mermaid"]
    lines = [line.strip() for line in picture.code.splitlines()]
    assert lines[0] == "flowchart LR"
    assert sum(line.startswith("subgraph") for line in lines) == lines.count("end")
    arrows = [re.split(r" -- .+? --> ", line) for line in lines if "-->" in line]
    labelled = set(re.findall(r"(\w+)(?:\[\"|\(\[)", picture.code))
    ends = {re.match(r"\w+", end) for arrow in arrows for end in arrow}
    assert {end[0] for end in ends if end is not None} == labelled
    assert all(len(arrow) == 2 for arrow in arrows)
    for opening, closing in ("[]", "()"):
        assert picture.code.count(opening) == picture.code.count(closing)


def test_the_badge_of_the_hub_names_this_project() -> None:
    [badge] = [block.code for block in blocks_of("docs/runpod.md") if block.language == "markdown"]
    name = re.search(r'^name = "([\w-]+)"', PROJECT, re.MULTILINE)
    assert name is not None
    assert re.findall(r"(?:badge|hub)/OWNER/([\w-]+)", badge) == [name[1]] * 2
