"""What a job's input may be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_worker.engine.conversation import AssistantTurn, Exchange, UserTurn
from voxtral_worker.errors import BadInput, TooLarge
from voxtral_worker.jobs.schema import (
    KEYS,
    MAX_CHARACTERS,
    MAX_TEXTS,
    AudioJob,
    AudioSource,
    HealthJob,
    SessionJob,
    TextJob,
    TranscribeJob,
    read_input,
)
from voxtral_worker.sessions.config import SessionConfig


def text_job(**fields: Any) -> TextJob:
    job = read_input({"type": "text", **fields})
    assert isinstance(job, TextJob)
    return job


def test_a_health_job_has_no_other_field() -> None:
    assert read_input({"type": "health"}) == HealthJob()
    with pytest.raises(BadInput, match="'stream' is not a field of a health job"):
        read_input({"type": "health", "stream": True})


def test_a_text_is_one_prompt() -> None:
    job = text_job(text="hello")
    assert [prompt.field for prompt in job.prompts] == ["text"]
    assert job.prompts[0].conversation.user == UserTurn(("hello",))
    assert job.stream is False


def test_each_of_several_texts_is_a_prompt_of_its_own() -> None:
    job = text_job(texts=["a", "b"], stream=True)
    assert [prompt.field for prompt in job.prompts] == ["texts[0]", "texts[1]"]
    assert job.stream is True


def test_messages_are_one_prompt_with_history() -> None:
    job = text_job(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "user", "content": "four"},
        ]
    )
    conversation = job.prompts[0].conversation
    assert conversation.system_prompt == "be brief"
    assert conversation.history == (Exchange(UserTurn(("one",)), AssistantTurn(text="two")),)
    assert conversation.user == UserTurn(("three\n\nfour",))


def test_options_of_a_text_job_begin_at_those_of_a_session() -> None:
    sampling = text_job(text="a").sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.2, 0.95, 256)
    given_ones = text_job(text="a", temperature=0, top_p=1, max_length=7, system_prompt="x")
    assert given_ones.sampling.temperature == 0.0
    assert given_ones.sampling.max_tokens == 7
    assert given_ones.prompts[0].conversation.system_prompt == "x"


def test_a_transcription_is_greedy_unless_told_otherwise() -> None:
    job = read_input({"type": "transcribe", "audio_base64": "AAAA"})
    assert isinstance(job, TranscribeJob)
    assert job.options.sampling.temperature == 0.0
    warm = read_input({"type": "transcribe", "audio_base64": "AAAA", "temperature": 0.5})
    assert isinstance(warm, TranscribeJob)
    assert warm.options.sampling.temperature == 0.5


def test_an_audio_job_may_come_with_a_question() -> None:
    job = read_input({"type": "audio", "audio_url": "https://a.example/b.wav", "text": "who?"})
    assert isinstance(job, AudioJob)
    assert job.source == AudioSource("audio_url", "https://a.example/b.wav")
    assert job.question == "who?"


def test_a_session_job_takes_a_session_config() -> None:
    job = read_input({"type": "session", "config": {"mode": "transcribe"}, "idle_seconds": 5})
    assert isinstance(job, SessionJob)
    assert (job.config.mode, job.ttl_s, job.idle_s) == ("transcribe", 900.0, 5.0)
    assert read_input({"type": "session"}) == SessionJob(SessionConfig(), 900.0, 60.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "input is null, but must be an object"),
        ([], "input is an empty list, but must be an object"),
        ({}, "type is null, but must be one of health, text, transcribe, audio, session"),
        ({"type": "talk"}, "type is 'talk', but must be one of"),
        ({"type": 1}, "type is 1, but must be one of"),
        ({"type": []}, "type is an empty list, but must be one of"),
        ({"type": "text"}, "exactly one of text, texts, messages is needed"),
        ({"type": "text", "text": "a", "texts": ["b"]}, "the input has text and texts"),
        ({"type": "text", "text": ""}, "text is '', but must be a text that is not empty"),
        ({"type": "text", "text": 5}, "text is 5, but must be"),
        ({"type": "text", "text": "\ud800"}, r"text is '\\ud800', but must be"),
        ({"type": "text", "texts": []}, "texts is an empty list, but must be a list"),
        ({"type": "text", "texts": "a"}, "texts is 'a', but must be a list"),
        ({"type": "text", "texts": ["a", 2]}, r"texts\[1\] is 2, but must be a text"),
        ({"type": "text", "text": "a", "colour": 1}, "'colour' is not a field of a text job"),
        ({"type": "text", "text": "a", "stream": 1}, "stream is 1, but must be true or false"),
        ({"type": "text", "text": "a", "temperature": 3}, "temperature is 3, but must be a number"),
        ({"type": "text", "text": "a", "temperature": True}, "temperature is true, but must be"),
        ({"type": "text", "text": "a", "max_length": 0}, "max_length is 0, but must be a whole"),
        ({"type": "text", "text": "a", "top_p": "x"}, "top_p is 'x', but must be"),
        ({"type": "text", "text": "a", "language": "klingon"}, "language is 'klingon', but must"),
        ({"type": "text", "text": "a", "system_prompt": 1}, "system_prompt is 1, but must be"),
        ({"type": "text", "messages": []}, "messages is an empty list, but must be"),
        ({"type": "text", "messages": ["a"]}, r"messages\[0\] is 'a', but must be an object"),
        (
            {"type": "text", "messages": [{"role": "cook", "content": "a"}]},
            r"messages\[0\].role is 'cook', but must be one of system, developer, user, assistant",
        ),
        (
            {"type": "text", "messages": [{"role": "user", "content": 1}]},
            r"messages\[0\].content is 1, but must be a text",
        ),
        (
            {"type": "text", "messages": [{"role": "user", "content": "a", "age": 1}]},
            r"messages\[0\] has no field 'age'; it has role, name, content",
        ),
        (
            {"type": "text", "messages": [{"content": "a"}]},
            r"messages\[0\].role is null, but must be one of system",
        ),
        ({"type": "text", "text": "a", "seed": 0.5, "stop": 1}, "seed is 0.5, .*; stop is 1, but"),
        ({"type": "text", "text": "a", "b": 1, "c": 2}, "'b', 'c' are no fields of a text job"),
        ({"type": "transcribe", "audio_base64": "a", "stop": ["."]}, "'stop' is not a field"),
        ({"type": "transcribe", "audio_base64": ""}, "audio_base64 is '', but must be a text"),
        ({"type": "transcribe"}, "exactly one of audio_base64, audio_url is needed"),
        (
            {"type": "transcribe", "audio_base64": "a", "audio_url": "https://a.example"},
            "the input has audio_base64 and audio_url",
        ),
        ({"type": "audio", "audio_base64": 1}, "audio_base64 is 1, but must be"),
        (
            {"type": "audio", "audio_url": "file:///etc/passwd"},
            "must be an http:// or https:// address, or a data: address",
        ),
        (
            {"type": "audio", "audio_url": "https://"},
            "must be an http:// or https:// address, or a data: address",
        ),
        (
            {"type": "audio", "audio_url": "http://[x"},
            "must be an http:// or https:// address, or a data: address",
        ),
        ({"type": "session", "ttl_seconds": 3601}, "ttl_seconds is 3601, but must be a number"),
        ({"type": "session", "idle_seconds": 0}, "idle_seconds is 0, but must be a number"),
        ({"type": "session", "config": {"mode": "x"}}, "config mode is 'x', but must be one of"),
        ({"type": "session", "config": [1]}, "config must be an object"),
    ],
)
def test_bad_input_is_told_with_its_field(value: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_input(value)


def test_messages_may_come_in_any_order_of_roles() -> None:
    user, system = {"role": "user", "content": "a"}, {"role": "system", "content": "b"}
    said = text_job(messages=[user, system, user]).prompts[0].conversation
    assert (said.user, said.system_prompt) == (UserTurn(("a\n\nb\n\na",)), None)
    said = text_job(messages=[system, user], system_prompt="c").prompts[0].conversation
    assert (said.user, said.system_prompt) == (UserTurn(("a",)), "c\n\nb")
    greeting = {"role": "assistant", "content": "Hello.", "name": None}
    said = text_job(messages=[greeting, user]).prompts[0].conversation
    assert said.history == (Exchange(UserTurn(()), AssistantTurn(text="Hello.")),)
    assert text_job(messages=[system]).prompts[0].conversation.user == UserTurn(("b",))


NULLS: dict[str, dict[str, Any]] = {
    "text": {"text": "a"},
    "transcribe": {"audio_base64": "AAAA"},
    "audio": {"audio_base64": "AAAA", "text": "who?"},
    "session": {"config": {"mode": "transcribe"}},
    "health": {},
}


@pytest.mark.parametrize("kind", list(KEYS))
def test_null_is_the_same_as_missing(kind: str) -> None:
    needed: dict[str, Any] = {"type": kind, **NULLS[kind]}
    nulls = {key: None for key in (*KEYS[kind], "colour") if key not in needed}
    assert read_input({**needed, **nulls}) == read_input(needed)
    if kind == "session":
        nothing = {"type": kind, "config": {"max_length": None, "temperature": None}}
        assert read_input(nothing) == read_input({"type": kind})


def test_an_empty_field_beside_a_full_one_was_not_meant() -> None:
    job = read_input({"type": "audio", "audio_url": "", "audio_base64": "AAAA", "text": ""})
    assert isinstance(job, AudioJob)
    assert (job.source, job.question) == (AudioSource("audio_base64", "AAAA"), None)


def test_an_answer_may_have_stop_texts_and_a_seed() -> None:
    assert text_job(text="a", stop="!", seed=7).sampling.stop == ("!",)
    assert text_job(text="a", stop="!", seed=7).sampling.seed == 7


def test_more_text_than_any_context_holds_is_refused_before_the_engine_sees_it() -> None:
    long = "a" * (MAX_CHARACTERS + 1)
    with pytest.raises(TooLarge, match="text has 500001 characters"):
        read_input({"type": "text", "text": long})
    messages = [{"role": "user", "content": long[:300_000]}] * 2
    with pytest.raises(TooLarge, match="messages have more than"):
        read_input({"type": "text", "messages": messages})


def test_a_message_about_a_large_value_is_short() -> None:
    with pytest.raises(BadInput) as caught:
        read_input({"type": "text", "text": "a", "max_length": 10**5000})
    assert len(str(caught.value)) < 200
    with pytest.raises(BadInput) as caught:
        read_input({"type": "x" * 1_000_000})
    assert len(str(caught.value)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=3)}
    ),
    max_size=5,
)
FIELDS = st.dictionaries(
    st.sampled_from(sorted({key for keys in KEYS.values() for key in keys})),
    JSON | MESSAGES,
    max_size=4,
)


@given(value=JSON | st.builds(lambda t, f: {**f, "type": t}, st.sampled_from(list(KEYS)), FIELDS))
def test_anything_that_json_can_hold_is_a_job_or_bad_input(value: Any) -> None:
    try:
        read_input(value)
    except BadInput as error:
        json.dumps(error.message)
        assert error.message.isascii()


def test_a_job_with_more_texts_than_allowed_is_refused() -> None:
    assert len(text_job(texts=["a"] * MAX_TEXTS).prompts) == MAX_TEXTS == 1024
    with pytest.raises(BadInput, match="texts has 1025 texts, but may have 1024"):
        text_job(texts=["a"] * 1025)
