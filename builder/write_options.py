"""Writes the tables of session options in docs/: `python -m builder.write_options`.

The tables come from the models that the worker reads options with. A test compares the pages with
what this script writes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from builder.write_configuration import texts_below, with_table
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.sessions.config import SessionConfig
from voxtral_worker.settings import REPOSITORY
from voxtral_worker.values.described import described
from voxtral_worker.values.may import JsonSchema, May, one_of
from voxtral_worker.values.model import Values, may_be_null, options_of

WORDS = {"string": "a text", "boolean": "true or false", "array": "a list", "object": "an object"}
UNITS = {"string": "characters", "array": "members"}
PROTOCOL, SPEECH = (REPOSITORY / "docs" / name for name in ("protocol.md", "speech.md"))
END = "<!-- end of options -->\n"


@dataclass(frozen=True)
class Row:
    """One option, as the docs show it."""

    name: str
    may_be: str
    default: str
    does: str

    def written(self) -> str:
        """The line of the table."""
        return f"| `{self.name}` | {self.may_be} | {self.default} | {self.does} |\n"


def rows(options: Values, path: str = "", kind: str = "") -> Iterator[Row]:
    """The options of a model and of the models within it, with these as their defaults."""
    model = type(options)
    schemas, texts = described(model)["properties"], texts_below(model)
    for name, field in options_of(model).items():
        models, value = list(models_in(field.annotation)), getattr(options, name)
        if does := field.description or texts.get(name):
            default = "" if name in model.needed else default_of(field, value)
            yield Row(path + name, may_be(field, schemas[name], models), default, kind + does)
        for within in models:
            # Of several kinds an option says to which it belongs.
            of_kind = f"`{tag_of(within)}`: " if len(models) > 1 else kind
            defaults = value if isinstance(value, within) else within()
            yield from rows(defaults, f"{path}{name}.", of_kind)


@dataclass(frozen=True)
class Table:
    """The options of a session whose names begin with one of these."""

    name: str
    page: Path
    options: Values
    names: tuple[str, ...] = ("",)

    @property
    def begin(self) -> str:
        """The marker before the table."""
        return f"<!-- {self.name}: written by builder/write_options.py -->\n"

    def rows(self) -> list[Row]:
        """Its rows."""
        return [row for row in rows(self.options) if row.name.startswith(self.names)]


TABLES = (
    Table("options of a session", PROTOCOL, SessionConfig()),
    Table("options of a realtime session", PROTOCOL, SessionOptions()),
    Table("options of speech", SPEECH, SessionConfig(), ("voice", "output_")),
)


def models_in(annotation: Any) -> Iterator[type[Values]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Values):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def tag_of(model: type[Values]) -> str:
    """The text under `type` that names a model."""
    return str(get_args(model.model_fields["type"].annotation)[0])


def may_be(field: FieldInfo, schema: JsonSchema, models: list[type[Values]]) -> str:
    """What an option may be, in the words of its errors where they say it."""
    if models:
        words = one_of(*map(tag_of, models)) if len(models) > 1 else "an object"
        return words + (" or null" if may_be_null(field) else "")
    kinds = get_args(field.annotation)
    marks = (*field.metadata, *(mark for kind in kinds for mark in get_args(kind)))
    words = next((mark.words for mark in marks if isinstance(mark, May) and mark.words), "")
    return words or shape_of(schema)


def shape_of(schema: JsonSchema) -> str:
    """What a schema allows, in words; null is not among them."""
    if "anyOf" in schema:
        return ", or ".join(filter(None, map(shape_of, schema["anyOf"])))
    if "enum" in schema:
        return one_of(*(each for each in schema["enum"] if each is not None))
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    (words,) = [WORDS[kind] for kind in kinds if kind != "null"] or [""]
    most = schema.get("maxLength", schema.get("maxItems"))
    return f"{words} of at most {most} {UNITS[kinds[0]]}" if most else words


def default_of(field: FieldInfo, value: Any) -> str:
    """A default as JSON; an option that is unset and cannot be null has none."""
    extra = field.json_schema_extra
    value = extra.get("default", value) if isinstance(extra, dict) else value
    if value is None and not may_be_null(field):
        return ""
    shown = f'"{tag_of(type(value))}"' if isinstance(value, Values) else json.dumps(value)
    return f"`{shown}`"


def written(table: Table, text: str) -> str:
    """A page with a new table. Raises ValueError if one of its markers is missing."""
    lines = "| option | may be | default | what it does |\n|---|---|---|---|\n"
    return with_table(
        text, table.begin, lines + "".join(row.written() for row in table.rows()), END
    )


def main() -> None:
    """Write the tables into their pages."""
    for table in TABLES:
        table.page.write_text(written(table, table.page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
