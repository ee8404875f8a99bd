"""Finds words that are hard to read: `python -m builder.prose`, part of `make check`.

It reads the docs, and the comments and docstrings of the sources. Each rule is a pattern, and what
to write instead. Code in blocks and in backticks is ignored.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/*.md", "docs/*.md")
SOURCES = (
    "handler.py",
    "bench/*.py",
    "builder/**/*.py",
    "examples/*.py",
    "src/**/*.py",
    "tests/**/*.py",
)
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`|<!--.*?-->", re.MULTILINE | re.DOTALL)


class Rule(NamedTuple):
    """A pattern of what to avoid, and what to write instead."""

    pattern: str
    instead: str


RULES = (
    Rule(r"\b(?<!there.)(?:is|are|was|were) (?-i:none)\b", "'is not one', or name what it is not"),
    Rule(r"\b(?<!there.)(?:is|are|was|were) no (?!longer|more)\w+", "'is not a ...'"),
    Rule(r"\btold\b|\btells?\b", "returns, sends, reports, shows, logs"),
    Rule(r"\b(?:some|no|every)body\b|\bwhoever\b", "the caller, the client, no client, anyone"),
    Rule(r"\bbesides?\b", "with, next to, compared with, in addition to"),
    Rule(r"\b(?:go|goes|went|going) on\b", "continue"),
    Rule(r"\bastray\b|\bin any company\b|\bin vain\b", "say what happens"),
    Rule(r"\b(?:find|finds|found) out\b", "detect, determine"),
    Rule(r"\banew\b", "again"),
    Rule(r"\bmeanwhile\b", "at the same time, until then"),
    Rule(r"\bfor ever\b|\bas one likes\b", "without end, without a limit"),
    Rule(r"\bin force\b", "in effect"),
    Rule(r"\b(?:lost|cut|dropped) line\b", "a lost connection"),
    Rule(r"\bovertaken?\b", "say in which order"),
    Rule(r"\bwhat is \w+ed (?:for )?and not\b", "Unsupported ..."),
    Rule(r"\bmay be a (?:text|whole number)\b", "name the type: string, integer"),
    Rule(r"\b(?:is|are) let go\b", "is freed, is deleted"),
)


class Finding(NamedTuple):
    """A place in a page or source."""

    page: str
    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: '{self.words}': write {self.instead}"


def findings(page: str, text: str) -> Iterator[Finding]:
    """All places of one page that match a rule, in the order of the rules."""
    # Replace code by spaces and keep its line ends, so that line numbers stay right.
    prose = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    for rule in RULES:
        for found in re.finditer(rule.pattern.replace(" ", r"\s+"), prose, re.IGNORECASE):
            line = prose.count("\n", 0, found.start()) + 1
            yield Finding(page, line, " ".join(found[0].split()), rule.instead)


def comments_of(source: str) -> str:
    """The comments and docstrings of Python code, each in its own line; other lines are empty."""
    lines = [""] * (source.count("\n") + 1)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = token.string.lstrip("#")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # Also the texts below the fields of a class.
            first = node.lineno - 1
            for number, line in enumerate(str(node.value.value).split("\n"), first):
                lines[number] = line
    return "\n".join(lines)


def main() -> int:
    """Print the findings of all pages and sources. Returns 1 if there are any."""
    texts = {
        path: path.read_text("utf-8")
        for pattern in (*PAGES, *SOURCES)
        for path in sorted(ROOT.glob(pattern))
    }
    found = [
        finding
        for path, text in texts.items()
        for finding in findings(
            str(path.relative_to(ROOT)), comments_of(text) if path.suffix == ".py" else text
        )
    ]
    print("\n".join(map(str, found)) if found else f"prose: {len(texts)} files, nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
