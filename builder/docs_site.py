"""Adds the pages outside of docs/ to the docs site, and turns all links into links of the site.

MkDocs calls this hook (mkdocs.yml). Links are written for readers of the repository:
`docs/deploy.md` in README.md, `../src/...` in a page of docs/. On the site, pages have other names,
and files that are not pages do not exist.
"""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

# MkDocs loads this file by its path, so the package `builder` must be made known first.
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
    """Add the pages outside of docs/, and the library of the diagrams."""
    for place, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text("utf-8")))
    files.append(File.generated(config, MERMAID_PLACE, content=MERMAID.read_bytes()))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """A page whose diagrams are drawn by the site's own file."""
    return with_mermaid(output)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn the links of a page into links to the site's pages or to files of the repository."""
    name = page.file.src_uri
    return turned(markdown, PLACES.get(name, f"docs/{name}"), config.repo_url)
