"""Brings the pages outside of docs/ into the docs site, and turns all links to the site's pages.

MkDocs calls this hook (mkdocs.yml). Links are written for readers of the repository:
`docs/deploy.md` in README.md, `../src/...` in a page of docs/. On the site a page has another
name, and a file that is not a page stands in the repository alone.
"""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

# MkDocs loads this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from builder.docs_links import (  # noqa: E402
    MERMAID,
    MERMAID_PLACE,
    PAGES,
    ROOT,
    turned,
    with_mermaid,
)

PLACES = {name: place for place, name in PAGES.items()}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand outside of docs/, and the library of the diagrams."""
    for place, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text("utf-8")))
    files.append(File.generated(config, MERMAID_PLACE, content=MERMAID.read_bytes()))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """A page whose diagrams are drawn by the site's own file."""
    return with_mermaid(output)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page whose links lead to pages of the site, or to files of the repository."""
    name = page.file.src_uri
    return turned(markdown, PLACES.get(name, f"docs/{name}"), config.repo_url)
