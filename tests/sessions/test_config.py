from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.words import words_of
from voxtral_worker.errors import BadInput
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS, OPTIONS, SessionConfig
from voxtral_worker.turns.endpoint import Waits

GOOD: dict[str, list[Any]] = {
    "vad_sensitivity": [0, 3],
    "temperature": [0, 0.5, 2],
    "max_length": [1, 4096],
    "top_p": [0, 0.5, 1],
    "stop": [[], ["."], ["a", "b", "c", "d" * 256]],
    "seed": [0, -1, 2**63 - 1, None],
    "mode": ["chat", "transcribe"],
    "language": ["en", "de", None],
    "system_prompt": ["Be brief.", "", None, "x" * MAX_TEXT_CHARACTERS],
    "silence_ms": [100, 3000],
    "sample_rate": [8000, 48000],
    "encoding": ["pcm_s16le", "opus", "mulaw", "alaw"],
    "stream": [True, False],
    "interim": [True, False],
    "barge_in": [True, False],
    "barge_in_ms": [0, 2000],
    "turn_detection": ["silence", "semantic"],
    "eagerness": ["low", "medium", "high", "auto"],
    "reopen_ms": [0, 2000],
    "transcript": [True, False],
}
BAD: dict[str, list[Any]] = {
    "vad_sensitivity": [-1, 4, 2.0, True, "2"],
    "temperature": [-0.1, 2.1, float("nan"), float("inf"), True, "0"],
    "max_length": [0, 4097, 1.5, False],
    "top_p": [-1, 1.01, "1", []],
    "stop": ["", [""], ["a"] * 5, ["a" * 257], [1], 1, {}, ["\ud800"]],
    "seed": [2**63, 1.0, "1", True],
    "mode": ["Chat", "", 1, []],
    "language": ["english", "EN", "xx", 1, {}, []],
    "system_prompt": [1, [], "\ud800", "x" * (MAX_TEXT_CHARACTERS + 1)],
    "silence_ms": [99, 3001, 500.0],
    "sample_rate": [7999, 48001, "16000"],
    "encoding": ["mp3", 1],
    "stream": [0, "true"],
    "interim": [1],
    "barge_in": [""],
    "tools": [7, {}, "wait"],
    "tool_choice": ["any", 7, {}, {"name": 7}, {"name": ""}, []],
    "parallel_tool_calls": ["yes", 1],
    "tool_timeout_ms": [-1, 60_001, 1.5, "1"],
    "voice": ["", 1, [], "\ud800", "x" * 65],
    "output_sample_rate": [7999, 48001, "24000"],
    "output_encoding": ["mp3", 1],
    "barge_in_ms": [-1, 2001, 0.5],
    "turn_detection": ["server_vad", "", True],
    "eagerness": ["none", 1],
    "reopen_ms": [-1, 2001, True],
    "transcript": ["yes"],
}


def test_the_defaults_are_the_documented_ones() -> None:
    assert SessionConfig().as_dict() == {
        "vad_sensitivity": 2,
        "temperature": 0.2,
        "max_length": 256,
        "top_p": 0.95,
        "stop": [],
        "seed": None,
        "mode": "chat",
        "language": None,
        "system_prompt": None,
        "silence_ms": 500,
        "sample_rate": 16000,
        "encoding": "pcm_s16le",
        "stream": True,
        "interim": False,
        "barge_in": True,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "tool_timeout_ms": 10_000,
        "voice": None,
        "output_sample_rate": 24000,
        "output_encoding": "pcm_s16le",
        "barge_in_ms": 0,
        "turn_detection": "silence",
        "eagerness": "auto",
        "reopen_ms": 800,
        "transcript": False,
    }


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in GOOD.items() for v in vs])
def test_a_value_within_its_range_is_taken(key: str, value: Any) -> None:
    updated = SessionConfig().updated({key: value})
    # Dictation has each sentence for itself by default.
    other = {"reopen_ms": 0} if value == "transcribe" else {}
    assert updated.as_dict() == {**SessionConfig().as_dict(), **other, key: value}
    assert updated.given == {key}


@pytest.mark.parametrize(
    ("options", "reopen_ms"),
    [
        ({}, 800),
        ({"mode": "transcribe"}, 0),
        ({"mode": "transcribe", "reopen_ms": 300}, 300),
        ({"eagerness": "high"}, 800),
        ({"turn_detection": "semantic", "eagerness": "high"}, 1000),
        ({"turn_detection": "semantic", "eagerness": "high", "reopen_ms": 0}, 0),
        ({"turn_detection": "semantic"}, 800),
    ],
)
def test_how_long_a_turn_may_go_on_follows_the_other_options(
    options: dict[str, Any], reopen_ms: int
) -> None:
    config = SessionConfig().updated(options)
    assert config.reopens_within_ms == config.as_dict()["reopen_ms"] == reopen_ms


def test_scores_are_waited_for_as_eagerness_says_and_not_without_them() -> None:
    assert SessionConfig().waits is None
    for eagerness, known in (("auto", "medium"), ("low", "low"), ("high", "high")):
        options = {"turn_detection": "semantic", "eagerness": eagerness, "silence_ms": 700}
        assert SessionConfig().updated(options).waits == Waits.of(known, 700)


@pytest.mark.parametrize(
    ("choice", "waits"),
    [("auto", Waits(16, 18, 30, 17)), ("required", Waits(16, 18, 30, 17)), ("none", None)],
)
def test_where_a_tool_may_be_called_no_turn_ends_early(choice: str, waits: Waits | None) -> None:
    tool = {"type": "function", "name": "light", "parameters": {"type": "object"}}
    semantic = {"turn_detection": "semantic", "tools": [tool], "tool_choice": choice}
    config = SessionConfig().updated(semantic)
    assert config.waits == waits or (waits is None and config.waits == Waits.of("medium", 500))


def test_a_choice_of_tools_is_one_that_is_offered_and_shown_as_it_was_given() -> None:
    tool = {"type": "function", "name": "light", "parameters": {"type": "object"}}
    with pytest.raises(BadInput, match="'required', but there are no tools"):
        SessionConfig().updated({"tool_choice": "required"})
    with pytest.raises(BadInput, match="names 'dial', but there is no such tool"):
        SessionConfig().updated({"tools": [tool], "tool_choice": {"name": "dial"}})
    named = SessionConfig().updated({"tools": [tool], "tool_choice": {"name": "light"}})
    assert named.as_dict()["tool_choice"] == {"name": "light"}


def test_turns_by_scores_are_refused_where_nobody_scores() -> None:
    semantic = SessionConfig().updated({"turn_detection": "semantic"})
    semantic.require_scorer(True)
    SessionConfig().require_scorer(False)
    with pytest.raises(BadInput, match="no turn model: set TURN_MODEL"):
        semantic.require_scorer(False)


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_a_bad_value_is_refused_with_its_key_and_its_range(key: str, value: Any) -> None:
    with pytest.raises(BadInput) as refused:
        SessionConfig().updated({key: value})
    assert refused.value.code == "INVALID_REQUEST"
    assert key in refused.value.message
    assert words_of(OPTIONS[key]) in refused.value.message
    refused.value.message.encode()


NULLABLE = {"language", "system_prompt", "seed", "voice"}


@pytest.mark.parametrize("key", [key for key in (*OPTIONS, "volume") if key not in NULLABLE])
def test_null_is_the_same_as_missing(key: str) -> None:
    before = SessionConfig().updated({"temperature": 0.5, "max_length": 9, "stop": ["."]})
    assert before.updated({key: None}) == before
    assert before.updated({key: None}).given == {"temperature", "max_length", "stop"}


@pytest.mark.parametrize("key", sorted(NULLABLE))
def test_null_is_a_value_where_it_is_one(key: str) -> None:
    values = {"language": "de", "system_prompt": "Be kind.", "seed": 7, "voice": "heart"}
    after = SessionConfig().updated(values).updated({key: None})
    assert after.as_dict()[key] is None
    assert key in after.given


def test_all_keys_that_cannot_be_used_are_named_with_their_values() -> None:
    with pytest.raises(BadInput) as refused:
        SessionConfig().updated({"top_p": 7, "seed": "x", "volume": 3, "mode": "chat"})
    for part in ("top_p is 7", "seed is 'x'", "'volume'"):
        assert part in refused.value.message


def test_one_stop_text_needs_no_list() -> None:
    assert SessionConfig().updated({"stop": "."}).stop == (".",)


some_changes = st.dictionaries(
    st.sampled_from([*OPTIONS, "given", "volume", "\ud800"]),
    st.sampled_from([value for values in (*GOOD.values(), *BAD.values()) for value in values]),
    max_size=4,
)


def is_taken(key: str, value: Any) -> bool:
    try:
        SessionConfig().updated({key: value})
    except BadInput:
        return False
    return True


@given(some_changes, some_changes)
@settings(max_examples=100, deadline=None)
def test_an_update_is_all_or_nothing(first: dict[str, Any], then: dict[str, Any]) -> None:
    config = SessionConfig()
    for changes in (first, then):
        before = config.as_dict()
        given = {key: v for key, v in changes.items() if v is not None or key in NULLABLE}
        is_good = all(is_taken(key, value) for key, value in given.items())
        try:
            config = config.updated(changes)
        except BadInput:
            assert not is_good
            assert config.as_dict() == before
        else:
            assert is_good
            one_text = given.get("stop")
            told = {"stop": [one_text]} if isinstance(one_text, str) else {}
            assert config.as_dict() == {**before, **given, **told}
            assert config.given >= given.keys()


@pytest.mark.parametrize("changes", [None, [], "temperature", 1])
def test_changes_that_are_no_object_are_refused(changes: object) -> None:
    with pytest.raises(BadInput):
        SessionConfig().updated(changes)


def test_an_unknown_key_is_refused_with_the_keys_there_are() -> None:
    with pytest.raises(BadInput) as refused:
        SessionConfig().updated({"temprature": 1})
    assert all(key in refused.value.message for key in ("temprature", *OPTIONS))


def test_a_long_bad_value_is_not_repeated_whole() -> None:
    with pytest.raises(BadInput) as refused:
        SessionConfig().updated({"mode": "x" * 10_000})
    assert len(refused.value.message) < 200


def test_a_deeply_nested_bad_value_is_refused_too() -> None:
    nested: list[Any] = []
    for _ in range(50_000):
        nested = [nested]
    with pytest.raises(BadInput):
        SessionConfig().updated({"mode": nested})
    # Taken apart from the outside in: a chain this long must not be freed at once.
    while nested:
        nested = nested.pop()
