"""What a model of parameters takes, and the one error that names all that is wrong."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, WrapValidator
from pydantic_core import PydanticCustomError

from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.server.openai.errors import BadOption
from voxtral_worker.server.openai.parameters import (
    Parameters,
    clash,
    harmless,
    ignored,
    keys,
    not_offered,
    read_parameters,
    text,
    unsupported_key,
)
from voxtral_worker.values.described import described
from voxtral_worker.values.may import CHOICE, OR_NULL, Flag, made_of, number, whole
from voxtral_worker.values.model import By, Picked


def sized(value: Any, name: str) -> int:
    if value == "huge":
        raise TooLarge(f"{name} is too large")
    if value != "small":
        raise BadInput(f"the size under {name} is none")
    return 1


class Circle(Parameters):
    """A kind of shape."""

    kind: Literal["circle"]
    radius: Annotated[int, whole(1, 9)] = 1


class Text(Parameters):
    """Another."""

    extras = {"font": unsupported_key("{name} is of the printer")}
    kind: Literal["text", "words"]
    text: Annotated[str, text(3)]


class Body(Parameters):
    """All kinds of keys."""

    extras = {
        **keys(ignored, "user note"),
        **keys(unsupported_key(), "audio video"),
        "penalty": harmless(0),
        "modes": harmless(["a"], words="{name} is {value}, but say a"),
    }
    share: Annotated[float, number(0, 1)] = 0.5
    is_on: Flag = False
    kind: Annotated[Literal["a", "b"], CHOICE] = "a"
    size: Annotated[int, made_of(sized, {"type": "string"})] = 0
    shapes: list[Annotated[Circle | Text, By("kind", "circle, or text")]] = Field(default=[])
    inner: Circle | None = None

    @classmethod
    def clashes(cls, given: dict[str, Any]) -> list[PydanticCustomError]:
        """See Values."""
        both = given.get("is_on") is True and "share" in given
        return [clash("is_on", "is_on goes without share")] if both else []


BODY = TypeAdapter(Body)


def refused(value: object, *at: str) -> BadOption:
    with pytest.raises(BadOption) as caught:
        read_parameters(BODY, value, at)
    return caught.value


@pytest.mark.parametrize(
    ("value", "code", "param", "sentence"),
    [
        ({"share": 2}, "invalid_value", "share", "share is 2, but must be a number from 0 to 1"),
        ({"loud": 1}, "unknown_parameter", "loud", "there is no parameter loud"),
        ({"a\n'": 1}, "unknown_parameter", "a\\n'", "there is no parameter a\\n'"),
        ({"audio": 1}, "unsupported_parameter", "audio", "audio is not supported by this worker"),
        ({"penalty": 0.5}, "unsupported_parameter", "penalty", "penalty is 0.5, which is not"),
        ({"penalty": False}, "unsupported_parameter", "penalty", "penalty is false, which is"),
        ({"modes": []}, "unsupported_parameter", "modes", "modes is an empty list, but say a"),
        ({"size": 7}, None, "size", "the size under size is none"),
        ({"size": "huge"}, "payload_too_large", "size", "size is too large"),
        ({"shapes": [7]}, "invalid_value", "shapes[0]", "shapes[0] is 7, but must be an object"),
        (
            {"shapes": [{"kind": "box"}]},
            "invalid_value",
            "shapes[0].kind",
            "shapes[0].kind is 'box', but must be circle, or text",
        ),
        (
            {"shapes": [{"kind": "text", "text": "long"}]},
            "string_above_max_length",
            "shapes[0].text",
            "shapes[0].text has 4 characters, but may have 3",
        ),
        (
            {"shapes": [{"kind": "words"}]},
            "invalid_value",
            "shapes[0].text",
            "shapes[0].text is null, but must be a text",
        ),
        (
            {"shapes": [{"kind": "text", "text": "a", "font": 1}]},
            "unsupported_parameter",
            "shapes[0].font",
            "shapes[0].font is of the printer",
        ),
        (
            {"inner": {"kind": "circle", "font": 1}},
            "unknown_parameter",
            "inner.font",
            "there is no parameter inner.font",
        ),
        ({"is_on": True, "share": 1}, None, "is_on", "is_on goes without share"),
    ],
)
def test_what_is_wrong_has_a_param_a_code_and_a_sentence(
    value: dict[str, Any], code: str | None, param: str, sentence: str
) -> None:
    error = refused(value)
    assert (error.openai_code, error.param) == (code, param)
    assert error.message.startswith(sentence)
    assert error.http_status == (413 if code == "payload_too_large" else 400)
    inside = refused(value, "session")
    assert inside.param == f"session.{param}"
    assert f"session.{param}" in inside.message


def test_null_is_the_same_as_missing_and_what_changes_nothing_is_taken() -> None:
    nothing = dict.fromkeys(("audio", "loud", "share", "shapes", "inner", "penalty", "modes"))
    wishes = {"user": "u", "note": [1], "penalty": 0.0, "modes": ["a"]}
    assert read_parameters(BODY, nothing) == read_parameters(BODY, wishes) == Body()


def test_one_error_names_keys_then_fields_then_what_does_not_go_together() -> None:
    error = refused({"is_on": True, "share": 7, "loud": 1, "audio": 1})
    assert error.param == "loud"
    assert error.message == (
        "there is no parameter loud; audio is not supported by this worker; share is 7, but must "
        "be a number from 0 to 1; is_on goes without share"
    )


def test_the_first_offender_says_the_status() -> None:
    assert refused({"size": "huge", "kind": 1}).http_status == 400
    assert refused({"size": "huge", "shapes": [1]}).http_status == 413


def test_an_error_names_only_so_many_offenders() -> None:
    error = refused({"shapes": [{"kind": "box"}] * 50})
    assert "shapes[11].kind" in error.message
    assert error.message.endswith("; and 38 more")


def test_what_is_known_beside_the_fields_is_not_described() -> None:
    schemas = described(Body)
    assert set(schemas["properties"]) == {"share", "is_on", "kind", "size", "shapes", "inner"}
    assert "additionalProperties" not in schemas
    assert schemas["$defs"]["Circle"]["additionalProperties"] == {"type": "null"}
    (items,) = [schemas["properties"]["shapes"]["items"]]
    assert items["anyOf"] == [{"$ref": "#/$defs/Circle"}, {"$ref": "#/$defs/Text"}]


def test_another_function_may_pick_the_model() -> None:
    picked: TypeAdapter[Any] = TypeAdapter(
        Annotated[Circle | Text, Picked(lambda value: Text if "text" in value else Circle)]
    )
    assert isinstance(read_parameters(picked, {"kind": "text", "text": "a"}), Text)
    assert isinstance(read_parameters(picked, {"kind": "circle"}), Circle)


def test_keys_that_are_left_out_are_counted() -> None:
    error = refused({**{f"key{index}": 1 for index in range(40)}, "share": 7})
    assert "there is no parameter key11" in error.message
    assert error.message.endswith("; and 29 more")


class Known(Parameters):
    """Asks for what only the reader knows."""

    size: Annotated[int, WrapValidator(lambda value, handler, info: info.context.known)] = 0
    circle: Annotated[Circle | None, OR_NULL] = None


def test_validators_may_ask_what_the_reader_knows() -> None:
    assert read_parameters(TypeAdapter(Known), {"size": 1}, known=7).size == 7


def test_null_may_be_a_value_of_a_field_whose_parts_say_what_they_may_be() -> None:
    known = TypeAdapter(Known)
    assert read_parameters(known, {"circle": None}).model_fields_set == {"circle"}
    assert read_parameters(known, {"size": None}).model_fields_set == set()
    with pytest.raises(BadOption) as caught:
        read_parameters(known, {"circle": {"kind": "circle", "radius": 0}})
    assert caught.value.param == "circle.radius"


def test_a_kind_that_is_not_offered_is_unsupported() -> None:
    by_kind = By("kind", "it may be a circle", not_offered)
    shape: TypeAdapter[Any] = TypeAdapter(Annotated[Circle | Text, by_kind])
    with pytest.raises(BadOption, match="kind is 'box', but it may be a circle") as caught:
        read_parameters(shape, {"kind": "box"})
    assert (caught.value.param, caught.value.openai_code) == ("kind", "unsupported_parameter")
