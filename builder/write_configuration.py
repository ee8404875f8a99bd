"""Writes the tables of settings from settings.py: `python -m builder.write_configuration`.

docs/configuration.md gets all settings. README.md gets, between two markers, those of the form on
RunPod's Hub. A test compares both files with what this script writes.
"""

import ast
import dataclasses
import inspect
import itertools
import json
import re
from typing import Any

from pydantic import BaseModel

from tests.support.words import words_of
from voxtral_worker.settings import REPOSITORY, VARIABLES, Settings

PAGE = REPOSITORY / "docs" / "configuration.md"
README = REPOSITORY / "README.md"
FILES = (PAGE, README)
HUB = REPOSITORY / ".runpod" / "hub.json"
BEGIN = "<!-- settings: written by builder/write_configuration.py -->\n"
END = "<!-- end of settings -->\n"

INTRODUCTION = """\
# Configuration

The worker reads these environment variables once, when it starts. An empty variable counts as
unset. If a value cannot be used, the worker does not start: one message names every such variable,
its value, and what it may be. The worker warns of a variable that is nearly one of these names.

Booleans are `true`, `1`, `yes`, `on` or `false`, `0`, `no`, `off`, in any case. A variable whose
default is "unset" has none; the last column says what the worker does then.

This page is written from `settings.py` by `python -m builder.write_configuration`.

| name | type | range | default | what it does |
|---|---|---|---|---|
"""


# The words of JSON Schema that are not those of this page.
TYPES = {"array": "list"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting, as the docs show it."""

    name: str
    type: str
    range: str
    default: str
    does: str

    def long(self) -> str:
        """The row of docs/configuration.md."""
        cells = (f"`{self.name}`", self.type, self.range, self.default, self.does)
        return "| " + " | ".join(cells) + " |\n"

    def short(self) -> str:
        """The row of README.md."""
        return f"| `{self.name}` | {self.default} | {self.does} |\n"


# The hub's own client reads this variable, so it is not in Settings.
HF_TOKEN = Row(
    "HF_TOKEN", "string", "any", "unset", "Token of the model hub, if the model needs one."
)


def rows() -> list[Row]:
    """All settings that users may set, in the order of settings.py."""
    found = []
    schemas = Settings.model_json_schema()["properties"]
    texts = texts_below(Settings)
    for name, field in VARIABLES.items():
        # RunPod sets these variables itself. Users should not.
        if name.startswith("RUNPOD_"):
            continue
        # A setting that may be unset has its type first, and null last.
        schema = schemas[name].get("anyOf", [schemas[name]])[0]
        type_ = "choice" if "enum" in schema else schema.get("format", schema["type"])
        # The sentence of an error begins with the type, which has a column of its own here.
        words = re.sub("^(a (whole )?number from|one of|a text( of|$)) ?", "", words_of(field))
        default = default_of(field.default)
        found.append(
            Row(name, TYPES.get(type_, type_), words or "any", default, texts[name.lower()])
        )
        if name == "MODEL_ID":
            found.append(HF_TOKEN)
    return found


def texts_below(kind: type[BaseModel]) -> dict[str, str]:
    """What the source of a model says below its fields."""
    # The library would do this at every start of the worker, and take 0.05 s for it.
    (model,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(model, ast.ClassDef)
    return {
        field.target.id: " ".join(ast.literal_eval(below.value).split())
        for field, below in itertools.pairwise(model.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
    }


def default_of(value: Any) -> str:
    """A default, as you would write it in the environment."""
    if value is None or value == ():
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`" + ",".join(value) + "`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def page() -> str:
    """The text of docs/configuration.md."""
    return INTRODUCTION + "".join(row.long() for row in rows())


def readme(text: str) -> str:
    """README.md with a new table. Raises ValueError if one of the two markers is missing."""
    offered = {entry["key"] for entry in json.loads(HUB.read_text("utf-8"))["config"]["env"]}
    table = "| variable | default | what it does |\n|---|---|---|\n"
    table += "".join(row.short() for row in rows() if row.name in offered)
    return with_table(text, BEGIN, table, END)


def with_table(text: str, begin: str, table: str, end: str) -> str:
    """A page with a new table between two markers. Raises ValueError if one of them is missing."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if begin not in text or end not in rest:
        raise ValueError(f"the page lacks {begin.strip()} or {end.strip()}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    """Write both files."""
    PAGE.write_text(page(), "utf-8")
    README.write_text(readme(README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
