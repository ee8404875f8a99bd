"""Turns links that are written for readers of the repository into links of the docs site."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Pages outside of docs/: the path in the repository, and the name on the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}
LINK = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^()\s#]+)(#[\w-]+)?\)")
# Fetched by `make docs`, and its place on the site.
MERMAID = ROOT / ".docs" / "package" / "dist" / "mermaid.min.js"
MERMAID_PLACE = "assets/javascripts/mermaid.min.js"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def turned(markdown: str, place: str, repository: str | None) -> str:
    """The text of the page at the path `place`, with its links turned.

    A link to a file that is not a page leads to `repository`; without that address only its words
    stay. Raises FileNotFoundError for a link to a file that does not exist.
    """

    def turn(link: re.Match[str]) -> str:
        picture, words, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{place}: {target} leads nowhere")
        if path in PAGES or path.startswith("docs/"):
            return f"{picture}[{words}]({PAGES.get(path, path.removeprefix('docs/'))}{anchor})"
        if repository:
            return f"{picture}[{words}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return words

    # Leave blocks of code as they are.
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(turn, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(turn, markdown[end:])])


def with_mermaid(html: str) -> str:
    """A page of the site; one with a diagram loads the library from the site itself.

    Without that the theme would load it from a server of its own choice. All pages stand at the
    top of the site.
    """
    if 'class="mermaid"' not in html:
        return html
    return html.replace("</head>", f'<script src="{MERMAID_PLACE}"></script></head>', 1)
