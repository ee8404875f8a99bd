"""JSON from callers takes no longer than its size allows."""

import json
from typing import Any

import pytest

from voxtral_worker.errors import BadInput
from voxtral_worker.json_text import MAX_CONTAINERS, MAX_VALUES, read_json


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "ä,[{"]}, [], "text", 0])
def test_what_is_json_is_read_from_a_text_and_from_bytes(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert read_json(text, "it") == read_json(text.encode(), "it") == value


@pytest.mark.parametrize("text", ["", "{", "[" * 60_000, b"\xff", "9" * 5000])
def test_what_is_none_is_named(text: str | bytes) -> None:
    with pytest.raises(BadInput, match="^the body is not JSON$"):
        read_json(text, "the body")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" + "[]," * MAX_CONTAINERS + "0]", "it has more than 65536 opening brackets"),
        ("[" + "{}," * MAX_CONTAINERS + "0]", "it has more than 65536 opening brackets"),
        ("[" + "0," * (MAX_VALUES + 1) + "0]", "it has more than 262144 commas"),
    ],
)
def test_what_would_make_too_many_objects_is_never_parsed(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(_: object) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr("voxtral_worker.json_text.json.loads", parse)
    for form in (text, text.encode()):
        with pytest.raises(BadInput, match=told):
            read_json(form, "it")


def test_as_much_as_is_allowed_is_read() -> None:
    assert len(read_json("[" + "[]," * (MAX_CONTAINERS - 1) + "0]", "it")) == MAX_CONTAINERS
    assert len(read_json("[" + "0," * MAX_VALUES + "0]", "it")) == MAX_VALUES + 1
