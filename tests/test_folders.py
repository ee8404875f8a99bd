"""Tests lie in folders as the source does, and lean on `tests/support` alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

from voxtral_worker.settings import REPOSITORY

TESTS = REPOSITORY / "tests"
SOURCE = REPOSITORY / "src" / "voxtral_worker"
# What checks the worker as a whole, from outside.
WHOLE = {"guard", "support"}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_support_imports_neither_tests_nor_measures() -> None:
    files = sorted((TESTS / "support").glob("*.py"))
    assert len(files) > 20
    wrong = [
        f"{path.name} imports {module}"
        for path in files
        for module in imports_of(path)
        if module.split(".")[0] in ("bench", "tests") and not module.startswith("tests.support")
    ]
    assert wrong == []


def test_measures_lean_on_support_and_on_no_test() -> None:
    wrong = [
        f"{path.name} imports {module}"
        for path in sorted((REPOSITORY / "bench").glob("*.py"))
        for module in imports_of(path)
        if module.startswith("tests.") and not module.startswith("tests.support")
    ]
    assert wrong == []


def test_every_folder_of_tests_is_named_after_one_of_the_source_or_the_repository() -> None:
    folders = {
        path.parent.relative_to(TESTS)
        for path in TESTS.rglob("test_*.py")
        if path.parent != TESTS and path.relative_to(TESTS).parts[0] not in WHOLE
    }
    assert len(folders) > 15
    strange = [
        str(folder)
        for folder in sorted(folders)
        if not (SOURCE / folder).is_dir()
        and not (REPOSITORY / folder).is_dir()
        # `docs/clients.md` is a page, and has a folder of tests.
        and not (REPOSITORY / folder).with_suffix(".md").is_file()
    ]
    assert strange == []
