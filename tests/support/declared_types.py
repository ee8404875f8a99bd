"""The types of the JavaScript client, as they are declared."""

import re
from pathlib import Path

import voxtral_worker

FOLDER = Path(voxtral_worker.__file__).parent / "browser"
TYPES = (FOLDER / "voxtral.d.ts").read_text("utf-8")


def names_in(kind: str, name: str) -> set[str]:
    """The members that a class or interface declares."""
    body = re.search(rf"export {kind} {name}\b[^{{]*\{{\n(.*?)\n\}}", TYPES, re.DOTALL)
    assert body
    members = re.findall(r"^  (?:readonly |static |set )*(\w+)[?(:<]", body[1], re.MULTILINE)
    return set(members) - {"constructor"}
