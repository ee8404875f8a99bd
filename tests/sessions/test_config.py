from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_worker.errors import BadInput
from voxtral_worker.sessions.config import MAX_TEXT_CHARACTERS, OPTIONS, SessionConfig

GOOD: dict[str, list[Any]] = {
    "vad_sensitivity": [0, 3],
    "temperature": [0, 0.5, 2],
    "max_length": [1, 4096],
    "top_p": [0, 0.5, 1],
    "mode": ["chat", "transcribe"],
    "language": ["en", "de", None],
    "system_prompt": ["Be brief.", "", None, "x" * MAX_TEXT_CHARACTERS],
    "silence_ms": [100, 3000],
    "sample_rate": [8000, 48000],
    "encoding": ["pcm_s16le", "opus", "mulaw", "alaw"],
    "stream": [True, False],
    "interim": [True, False],
    "barge_in": [True, False],
}
BAD: dict[str, list[Any]] = {
    "vad_sensitivity": [-1, 4, 2.0, True, "2", None],
    "temperature": [-0.1, 2.1, float("nan"), float("inf"), True, "0", None],
    "max_length": [0, 4097, 1.5, False, None],
    "top_p": [-1, 1.01, "1", [], None],
    "mode": ["Chat", "", None, 1, []],
    "language": ["english", "EN", "xx", 1, {}, []],
    "system_prompt": [1, [], "\ud800", "x" * (MAX_TEXT_CHARACTERS + 1)],
    "silence_ms": [99, 3001, None, 500.0],
    "sample_rate": [7999, 48001, "16000"],
    "encoding": ["mp3", None, 1],
    "stream": [0, "true", None],
    "interim": [1, None],
    "barge_in": ["", None],
}


def test_the_defaults_are_the_documented_ones() -> None:
    assert SessionConfig().as_dict() == {
        "vad_sensitivity": 2,
        "temperature": 0.2,
        "max_length": 256,
        "top_p": 0.95,
        "mode": "chat",
        "language": None,
        "system_prompt": None,
        "silence_ms": 500,
        "sample_rate": 16000,
        "encoding": "pcm_s16le",
        "stream": True,
        "interim": False,
        "barge_in": True,
    }


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in GOOD.items() for v in vs])
def test_a_value_within_its_range_is_taken(key: str, value: Any) -> None:
    updated = SessionConfig().updated({key: value})
    assert updated.as_dict() == {**SessionConfig().as_dict(), key: value}
    assert updated.given == {key}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_a_bad_value_is_refused_with_its_key_and_its_range(key: str, value: Any) -> None:
    with pytest.raises(BadInput) as refused:
        SessionConfig().updated({key: value})
    assert refused.value.code == "INVALID_REQUEST"
    assert key in refused.value.message
    assert OPTIONS[key].allowed in refused.value.message
    refused.value.message.encode()


some_changes = st.dictionaries(
    st.sampled_from([*OPTIONS, "given", "volume", "\ud800"]),
    st.sampled_from([value for values in (*GOOD.values(), *BAD.values()) for value in values]),
    max_size=4,
)


@given(some_changes, some_changes)
@settings(max_examples=100, deadline=None)
def test_an_update_is_all_or_nothing(first: dict[str, Any], then: dict[str, Any]) -> None:
    config = SessionConfig()
    for changes in (first, then):
        before = config.as_dict()
        is_good = all(key in OPTIONS and OPTIONS[key].is_good(v) for key, v in changes.items())
        try:
            config = config.updated(changes)
        except BadInput:
            assert not is_good
            assert config.as_dict() == before
        else:
            assert is_good
            assert config.as_dict() == {**before, **changes}
            assert config.given >= changes.keys()


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
