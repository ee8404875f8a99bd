"""What is wrong with a value is said in plain words, whatever the value."""

import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from tests.support.words import words_of
from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.values.described import described
from voxtral_worker.values.may import CHOICE, Flag, clean_text, made_of, number, or_null, whole
from voxtral_worker.values.model import Values
from voxtral_worker.values.reading import read


def short(value: object) -> str:
    if not isinstance(value, str):
        raise BadInput("note is no text at all")
    if len(value) > 3:
        raise TooLarge(f"note has {len(value)} characters, but may have 3")
    return value


class Inner(Values):
    """Something within."""

    size: Annotated[int, whole(1, 9)]


class Outer(Values):
    """All kinds of fields."""

    count: Annotated[int, whole(0, 3)] = Field(default=1, description="How many.")
    share: Annotated[float, number(-0.5, 1.5)] = 0.5
    kind: Annotated[Literal["one", "two"], CHOICE] = "one"
    is_on: Flag = False
    name: Annotated[str | None, or_null(clean_text("a name or null", 1, 8))] = "x"
    later: Annotated[int, whole(0, 3)] | None = None
    note: Annotated[str, made_of(lambda value, _: short(value), {"type": "string"})] = ""
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    own: float = Field(default=7.0, exclude=True)


class Need(Values):
    """A field that must be there."""

    text: Annotated[str, clean_text("a text", 1)]


OUTER, NEED = TypeAdapter(Outer), TypeAdapter(Need)


def told(value: object, kind: TypeAdapter[Any] = OUTER) -> str:
    with pytest.raises(BadInput) as refused:
        read(kind, value)
    return refused.value.message


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"count": 4}, "count is 4, but must be a whole number from 0 to 3"),
        ({"count": "1"}, "count is '1', but must be a whole number from 0 to 3"),
        ({"count": True}, "count is true, but must be a whole number from 0 to 3"),
        ({"count": 1.0}, "count is 1.0, but must be a whole number from 0 to 3"),
        ({"count": 10**5000}, "count is a very large number, but must be a whole number from 0"),
        ({"share": math.nan}, "share is NaN, but must be a number from -0.5 to 1.5"),
        ({"share": math.inf}, "share is Infinity, but must be a number from -0.5 to 1.5"),
        ({"share": False}, "share is false, but must be a number from -0.5 to 1.5"),
        ({"kind": "three"}, "kind is 'three', but must be one of one, two"),
        ({"kind": []}, "kind is an empty list, but must be one of one, two"),
        ({"is_on": 1}, "is_on is 1, but must be true or false"),
        ({"name": ""}, "name is '', but must be a name or null"),
        ({"name": "\ud800"}, r"name is '\ud800', but must be a name or null"),
        ({"note": 1}, "note is no text at all"),
        ({"inner": {"size": 0}}, "inner.size is 0, but must be a whole number from 1 to 9"),
        ({"inner": {}}, "inner.size is null, but must be a whole number from 1 to 9"),
        ({"inner": 7}, "inner is 7, but must be an object"),
        ({"own": 1}, "has no field 'own'; it has count, share, kind"),
        ([], "it is an empty list, but must be an object"),
        (None, "it is null, but must be an object"),
    ],
)
def test_a_bad_value_is_named_with_what_it_was_and_what_it_may_be(
    value: object, sentence: str
) -> None:
    assert told(value).startswith(sentence)


def test_a_field_that_must_be_there_is_told_like_one_that_is_null() -> None:
    sentence = "text is null, but must be a text"
    assert told({}, NEED) == told({"text": None}, NEED) == sentence


def test_all_bad_fields_are_named_in_the_order_of_the_caller() -> None:
    message = told({"kind": 1, "count": 9, "volume": 3, "speed": 4})
    assert message.startswith("kind is 1, but must be one of one, two; count is 9, but must be")
    assert "has no field 'volume', 'speed'" in message


def test_the_first_bad_field_says_what_kind_of_error_it_is() -> None:
    with pytest.raises(TooLarge, match="note has 4 characters.*; count is 9"):
        read(OUTER, {"note": "long", "count": 9})
    with pytest.raises(BadInput) as refused:
        read(OUTER, {"count": 9, "note": "long"})
    assert not isinstance(refused.value, TooLarge)


def test_null_is_the_same_as_missing_but_where_it_is_a_value() -> None:
    nulls = dict.fromkeys(["count", "kind", "is_on", "later", "note", "inner", "volume"])
    assert read(OUTER, nulls) == Outer()
    assert read(OUTER, nulls).model_fields_set == set()
    assert read(OUTER, {"name": None}).name is None


def test_a_whole_number_stays_whole() -> None:
    assert json.dumps([read(OUTER, {"share": value}).share for value in (1, 1.0)]) == "[1, 1.0]"


def test_a_worker_may_set_what_a_caller_may_not() -> None:
    assert Outer(own=1.5).own == 1.5


def test_callers_read_a_schema_that_says_the_same() -> None:
    schema = described(Outer)
    assert schema["properties"]["count"] == {
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": 3,
        "default": 1,
        "description": "How many.",
    }
    assert schema["properties"]["kind"]["enum"] == ["one", "two", None]
    assert schema["additionalProperties"] == {"type": "null"}
    assert "own" not in schema["properties"]
    assert described(Need)["required"] == ["text"]
    assert words_of(Outer.model_fields["kind"]) == "one of one, two"
    assert words_of(Outer.model_fields["later"]) == "a whole number from 0 to 3"


def test_an_error_about_a_hundred_thousand_unknown_keys_is_short() -> None:
    message = told({f"key{number}": number for number in range(100_000)} | {"count": 9})
    assert len(message) < 1000
    assert "'key7'" in message
    assert "'key8'" not in message


def test_a_list_nested_deeper_than_python_recurses_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(50_000):
        nested = [nested]
    assert told({"count": nested}).startswith("count is [[[[...]]]], but must be")
    while nested:
        nested = nested.pop()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner)
    ),
    max_leaves=8,
)
fields = st.dictionaries(st.sampled_from([*Outer.model_fields, "size", "\ud800"]), anything)
WORDS_OF_THE_LIBRARY = ("Input should", "valid ", "pydantic", "Literal", "https://", "type=")


@given(anything | fields)
@settings(max_examples=300, deadline=None)
def test_no_value_brings_the_words_of_the_library_to_a_caller(value: object) -> None:
    try:
        read(OUTER, value)
    except BadInput as error:
        assert error.message.isascii()
        assert not any(word in error.message for word in WORDS_OF_THE_LIBRARY)
