"""The fenced blocks of the documents, each with the place where it stands."""

import json
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt

from voxtral_worker.settings import REPOSITORY

DOCUMENTS = (
    "README.md",
    "docs/protocol.md",
    "docs/python-client.md",
    "docs/javascript-client.md",
    "docs/tools.md",
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `section` is the nearest heading above it."""

    document: str
    line: int
    language: str
    section: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}:{self.language}"

    def messages(self) -> list[dict[str, Any]]:
        """What a block of JSON holds: one message a line."""
        return [json.loads(line) for line in self.code.splitlines()]


def blocks_of(document: str) -> list[Block]:
    """The blocks of one document, in order."""
    section, found = "", []
    tokens = MarkdownIt().parse((REPOSITORY / document).read_text("utf-8"))
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            section = token.content
        if token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            found.append(Block(document, line, token.info.strip(), section, token.content))
    return found


def all_blocks(language: str | None = None) -> list[Block]:
    """The blocks of all documents that tests run."""
    blocks = [block for document in DOCUMENTS for block in blocks_of(document)]
    return [block for block in blocks if language in (None, block.language)]
