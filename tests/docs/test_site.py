"""The docs site: every page has a place in it, and its links lead there. `make docs` builds it."""

import re
from typing import Any

import pytest
import yaml

from builder.docs_links import MERMAID, MERMAID_PLACE, PAGES, turned, with_mermaid
from voxtral_worker import client
from voxtral_worker.settings import REPOSITORY

DOCS = REPOSITORY / "docs"


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Takes MkDocs' own tags for what they hold."""


Loader.add_multi_constructor("!", lambda loader, tag, node: None)
Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: None)


def site() -> dict[str, Any]:
    loaded = yaml.load((REPOSITORY / "mkdocs.yml").read_text("utf-8"), Loader)
    assert isinstance(loaded, dict)
    return loaded


def test_every_page_has_one_place_in_the_navigation() -> None:
    named = [page for part in site()["nav"] for pages in part.values() for page in pages]
    assert sorted(named) == sorted([*PAGES.values(), *(path.name for path in DOCS.glob("*.md"))])


def test_a_link_that_leads_nowhere_ends_the_build() -> None:
    assert site()["strict"] is True
    assert set(site()["validation"]["links"].values()) == {"warn"}
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    assert ".docs/bin/mkdocs build --strict" in makefile
    with pytest.raises(FileNotFoundError, match=r"README.md: docs/gone.md leads nowhere"):
        turned("[a page](docs/gone.md)", "README.md", None)


@pytest.mark.parametrize(
    ("place", "link", "on_site"),
    [
        ("README.md", "[a](docs/deploy.md#what-it-costs)", "[a](deploy.md#what-it-costs)"),
        ("README.md", "![a](docs/console.png)", "![a](console.png)"),
        ("README.md", "[a](examples/README.md)", "[a](examples.md)"),
        ("docs/runpod.md", "[a](deploy.md)", "[a](deploy.md)"),
        ("docs/security.md", "[a](../SECURITY.md)", "[a](security-policy.md)"),
        ("SECURITY.md", "[a](docs/security.md)", "[a](security.md)"),
        ("README.md", "[a](LICENSE)", "a"),
        ("examples/README.md", "[`file.py`](file.py)", "`file.py`"),
        ("README.md", "[a](https://a.example/b.md)", "[a](https://a.example/b.md)"),
        ("README.md", "[a](#settings)", "[a](#settings)"),
        ("README.md", "```\n[a](docs/none.md)\n```\n", "```\n[a](docs/none.md)\n```\n"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(place: str, link: str, on_site: str) -> None:
    assert turned(link, place, None) == on_site


def test_a_link_to_a_file_leads_to_the_repository_where_its_address_is_known() -> None:
    link = turned("[a](../builder/prose.py)", "docs/engine.md", "https://forge.example/o/r/")
    assert link == "[a](https://forge.example/o/r/blob/main/builder/prose.py)"


@pytest.mark.parametrize("path", [*PAGES, *(f"docs/{path.name}" for path in DOCS.glob("*.md"))])
def test_no_page_has_a_link_that_the_site_cannot_turn(path: str) -> None:
    text = turned((REPOSITORY / path).read_text("utf-8"), path, None)
    assert text
    fences = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    left = re.findall(r"\]\((?!\w+:|#)([^()\s#]+)", fences)
    known = {*PAGES.values(), *(found.name for found in DOCS.iterdir())}
    assert set(left) <= known


def test_a_page_with_a_diagram_loads_its_library_from_the_site() -> None:
    page = '<html><head><title>a</title></head><body><pre class="mermaid">a</pre></body></html>'
    script = f'<script src="{MERMAID_PLACE}"></script></head>'
    assert with_mermaid(page) == page.replace("</head>", script)
    plain = page.replace("mermaid", "python")
    assert with_mermaid(plain) == plain
    assert "use_directory_urls: false" in (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    # `make docs` puts the file where the site takes it from, in one version.
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    assert re.search(r"^MERMAID := \d+\.\d+\.\d+$", makefile, re.MULTILINE)
    assert "npm pack --silent mermaid@$(MERMAID)" in makefile
    assert str(MERMAID.relative_to(REPOSITORY / ".docs")) in makefile


def test_the_reference_names_all_that_the_client_offers() -> None:
    page = (DOCS / "python-reference.md").read_text("utf-8")
    named = re.findall(r"^::: voxtral_worker\.client\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(client.__all__)


def test_the_tools_of_the_site_are_pinned_and_fetched_by_nothing_else() -> None:
    lines = (REPOSITORY / "builder" / "requirements-docs.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins)
    others = list((REPOSITORY / "builder").glob("requirements*.txt"))
    users = [path.name for path in others if "mkdocs" in path.read_text("utf-8")]
    assert users == ["requirements-docs.txt"]
