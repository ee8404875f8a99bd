"""What the documents point to is there."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from voxtral_worker.settings import REPOSITORY

DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "examples/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]
MOST_PICTURE_BYTES = 150_000


def targets(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        yield from (str(token.attrs[name]) for name in ("href", "src") if name in token.attrs)
        yield from targets(token.children or [])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    found = [urlsplit(target) for target in targets(MarkdownIt().parse(document.read_text()))]
    paths = [unquote(link.path) for link in found if not link.scheme and link.path]
    assert [path for path in paths if not (document.parent / path).exists()] == []


def test_the_readme_shows_the_console_in_a_small_picture() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert "docs/console.png" in set(targets(MarkdownIt().parse(readme)))
    assert (REPOSITORY / "docs" / "console.png").stat().st_size < MOST_PICTURE_BYTES


def test_a_link_to_a_heading_leads_to_one() -> None:
    """Of all pages: a heading that is renamed leaves no link behind."""
    pages = {path: path.read_text("utf-8") for path in DOCUMENTS}
    slugs = {
        path.resolve(): {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
        for path, text in pages.items()
    }
    dead = [
        f"{path.name}: {target}#{heading}"
        for path, text in pages.items()
        for target, heading in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text)
        if heading not in slugs.get((path.parent / target if target else path).resolve(), set())
    ]
    assert dead == []


def slug(heading: str) -> str:
    """A heading's anchor, as forges make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
