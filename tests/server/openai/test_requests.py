"""What callers ask for, read without a server."""

import asyncio
from typing import Any

import pytest

from voxtral_worker.errors import AtCapacity, BadInput, TooLarge, shown
from voxtral_worker.server.openai.body import Bodies, Form
from voxtral_worker.server.openai.chat_request import read_chat
from voxtral_worker.server.openai.errors import BadOption, error_object, within
from voxtral_worker.server.openai.messages import EncodedAudio
from voxtral_worker.server.openai.models import ModelNames
from voxtral_worker.server.openai.realtime.audio_options import (
    SemanticVad,
    ServerVad,
    Transcription,
)
from voxtral_worker.server.openai.realtime.client_event import InputAudioBufferAppend, read_event
from voxtral_worker.server.openai.realtime.session_options import SessionOptions
from voxtral_worker.server.openai.tools import MAX_NEW_TOKENS
from voxtral_worker.server.openai.transcription_request import read_transcription

AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
HELLO = {"role": "user", "content": "hello"}
WEB = "https://example.com/a.wav"
NAMES = ModelNames("m")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(*messages: object, **options: object) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), **options}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_neighbours_of_one_role_are_one_turn_with_a_blank_line_between_texts() -> None:
    asked = read_chat(
        chat(
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": "Be brief."},
            HELLO,
            {"role": "user", "content": [AUDIO, text("who?")]},
            {"role": "user", "content": [text("where?")]},
            {"role": "assistant", "content": "Me."},
            HELLO,
        )
    )
    sound = EncodedAudio("messages[3].content[0].input_audio.data", bytes(3))
    assert asked.system_prompt == "Be kind.\n\nBe brief."
    assert [said.role for said in asked.said] == ["user", "assistant", "user"]
    assert asked.said[0].parts == ("hello", sound, "who?\n\nwhere?")


def test_the_newer_name_of_the_most_tokens_is_the_same() -> None:
    assert read_chat(chat(HELLO, max_tokens=7)).sampling.max_tokens == 7
    assert read_chat(chat(HELLO, max_completion_tokens=7)).sampling.max_tokens == 7
    assert read_chat(chat(HELLO)).sampling.max_tokens == 1024


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(HELLO, max_tokens=1, max_completion_tokens=1), "max_tokens"),
        (chat(*[HELLO] * 3000), "messages"),
        (chat({"role": "user", "content": "a" * 500_001}), "messages[0].content[0].text"),
        (chat(*[{"role": "user", "content": "a" * 300_000}] * 2), "messages"),
        (chat("hello"), "messages[0]"),
        (chat({"role": "somebody", "content": "a"}), "messages[0].role"),
        (chat({"content": "a"}), "messages[0].role"),
        (chat({"role": "user", "content": 1}), "messages[0].content"),
        (chat({"role": "user", "content": [text("a")] * 65}), "messages[0].content"),
        (chat({"role": "user", "content": "\ud800"}), "messages[0].content[0].text"),
        (chat({"role": "assistant", "content": [AUDIO]}), "messages[0].content[0].type"),
        (
            chat({"role": "user", "content": [{"type": "audio_url", "audio_url": WEB}]}),
            "messages[0].content[0].audio_url",
        ),
        (
            chat({"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": WEB}}]}),
            "messages[0].content[0].audio_url.url",
        ),
        (
            chat({"role": "user", "content": [{"type": "input_audio", "input_audio": "?"}]}),
            "messages[0].content[0].input_audio",
        ),
        (chat({"role": "function", "content": "a", "name": "f"}), "messages[0].role"),
        (chat({"role": "tool", "content": "a", "tool_call_id": "1"}), "messages"),
        (chat(HELLO, {"role": "tool", "content": "a"}), "messages[1].tool_call_id"),
        (chat({"role": "user", "content": "a", "tool_call_id": "1"}), "messages[0].tool_call_id"),
        (chat(HELLO, {"role": "user", "tool_calls": [{"id": "1"}]}), "messages[1].tool_calls"),
        (
            chat(HELLO, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}),
            "messages[1].tool_calls",
        ),
        (chat(HELLO, stop=["a"] * 5), "stop"),
        (chat(HELLO, stop=[1]), "stop"),
        (chat(HELLO, seed=0.5), "seed"),
        (chat(HELLO, n=5), "n"),
        (chat(HELLO, tools=[{"type": "function"}]), "tools"),
        (chat(HELLO, tool_choice="required"), "tool_choice"),
        (chat(HELLO, tools=[TOOL], tool_choice="any"), "tool_choice"),
        (chat(HELLO, tools=[TOOL], parallel_tool_calls=1), "tool_choice"),
        (chat(HELLO, functions=[{"name": "f"}]), "functions"),
        (chat(HELLO, response_format="json"), "response_format"),
        (chat(HELLO, response_format={"type": "json_schema"}), "response_format"),
        (
            chat({"role": "user", "content": [{**AUDIO, "input_audio": {"format": "wav"}}]}),
            "messages[0].content[0].input_audio.data",
        ),
        (chat(HELLO, temperature=True), "temperature"),
        (chat(HELLO, stream="yes"), "stream"),
        (chat(HELLO, stream_options=1), "stream_options"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadOption) as caught:
        read_chat(body)
    assert caught.value.param == param
    assert param in caught.value.message


def part(**part: object) -> tuple[object, ...]:
    (said,) = read_chat(chat({"role": "user", "content": [part]})).said
    return said.parts


def test_parts_may_have_the_names_that_other_calls_and_servers_give_them() -> None:
    for kind in ("text", "input_text", "output_text"):
        assert part(type=kind, text="a", annotations=[]) == ("a",)
    for name, value in (
        ("input_audio", "data:audio/wav;base64,AAAA"),
        ("input_audio", "AAAA"),
        ("input_audio", {"data": "AAAA"}),
        ("input_audio", {"data": "AAAA", "format": "M4A"}),
        ("audio_url", "data:audio/wav;base64,AAAA"),
        ("audio_url", {"url": "data:audio/wav;base64,AAAA"}),
    ):
        (sound,) = part(type=name, **{name: value})
        assert isinstance(sound, EncodedAudio)
        assert sound.data == bytes(3)


def test_messages_of_histories_are_taken_as_they_are_meant() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No.", "audio": None}
    asked = read_chat(
        chat(
            {"role": "system", "content": None},
            {"role": "assistant", "content": "Hello.", "name": "bot"},
            {"role": "user", "content": []},
            {"role": "user"},
            {**HELLO, "name": "Ann"},
            refused,
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
            {"role": "developer", "content": [text("Greet.")]},
        )
    )
    assert asked.system_prompt is None
    assert [said.parts for said in asked.said] == [
        (),
        ("Hello.",),
        ("hello",),
        ("No.\n\nNever.",),
        ("Greet.",),
    ]


def test_all_that_is_wrong_with_a_request_is_told_at_once() -> None:
    body = chat(
        {"role": "cook", "content": "a"},
        {"role": "user", "content": [{"type": "image_url"}, {**text("a"), "color": "red"}]},
        "hello",
        temperature=3,
        loudness=2,
        frequency_penalty=0.5,
        stream_options={"include_usage": "yes"},
        tools=[{"type": "function", "function": {"name": "f", "parameters": []}}],
    )
    with pytest.raises(BadOption) as caught:
        read_chat(body)
    for told in (
        "messages[0].role is 'cook', but must be one of",
        "messages[1].content[0].type is 'image_url', but may be",
        "there is no parameter messages[1].content[1].color",
        "messages[2] is 'hello', but must be an object",
        "temperature is 3, but must be a number",
        "there is no parameter loudness",
        "frequency_penalty is 0.5, which is not supported",
        "stream_options goes with stream: true only",
        "stream_options.include_usage is 'yes', but must be true or false",
        "the parameters of the tool 'f' (tools[0]) must be a JSON schema of an object",
    ):
        assert told.removesuffix("...").rstrip(" ,") in caught.value.message
    assert caught.value.param == "loudness"


def test_an_error_names_only_so_many_offenders() -> None:
    with pytest.raises(BadOption) as caught:
        read_chat(chat(*[{"role": "cook", "content": "a" * 99}] * 200))
    assert "messages[11].role" in caught.value.message
    assert caught.value.message.endswith("; and 188 more")


def test_functions_that_must_not_be_called_change_nothing() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    plain = read_chat(chat(HELLO))
    assert read_chat(chat(HELLO, functions=[tool], function_call="none")) == plain
    assert read_chat(chat(HELLO, tool_choice="none", parallel_tool_calls=False)) == plain


CALLED = {
    "role": "assistant",
    "content": "One moment.",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "abcdefgh2", "type": "function", "function": {"name": "f", "arguments": ""}},
    ],
}


def result(call_id: str, content: object = "3") -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_calls_and_their_results_are_rounds_of_the_turn() -> None:
    parts = [{"type": "text", "text": "4"}]
    asked = read_chat(chat(HELLO, CALLED, result("abcdefgh2", parts), result("call_1")))
    user, answered = asked.said
    assert user.role == "user"
    (made,) = answered.rounds
    assert made.said.text == "One moment."
    first, second = made.calls
    assert (first.arguments, second.arguments) == ('{"a": 1}', "{}")
    # An id of another form is one that the model may read, the same for call and result.
    assert len(first.call_id) == 9
    assert second.call_id == "abcdefgh2"
    assert [(each.call_id, each.content) for each in made.results] == [
        (first.call_id, "3"),
        ("abcdefgh2", "4"),
    ]


def test_what_is_said_after_a_round_ends_its_turn() -> None:
    both = (result("call_1"), result("abcdefgh2"))
    asked = read_chat(chat(HELLO, CALLED, *both, {"role": "assistant", "content": "Done."}, HELLO))
    assert [said.role for said in asked.said] == ["user", "assistant", "user"]
    assert asked.said[1].parts == ("Done.",)
    assert len(asked.said[1].rounds) == 1
    system = {"role": "system", "content": "Be kind."}
    moved = read_chat(chat(HELLO, CALLED, system, *both))
    assert moved.said[-1].parts == ("Be kind.",)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ((CALLED,), "the call 'call_1' of a tool has no result"),
        ((CALLED, result("call_1")), "the call 'abcdefgh2' of a tool has no result"),
        ((CALLED, result("call_1"), HELLO), "the call 'abcdefgh2' of a tool has no result"),
        ((CALLED, result("call_1"), CALLED), "the call 'abcdefgh2' of a tool has no result"),
        ((CALLED, result("call_1"), result("call_1")), "the call 'call_1' of a tool has two"),
        ((CALLED, result("call_9")), "no call of a tool that waits has the id 'call_9'"),
        ((CALLED, CALLED), "the id 'call_1' stands at two calls"),
    ],
)
def test_a_call_has_one_result_before_what_follows_it(messages: tuple[Any, ...], told: str) -> None:
    with pytest.raises(BadOption) as caught:
        read_chat(chat(HELLO, *messages))
    assert told in caught.value.message
    assert caught.value.param == "messages"


def test_what_changes_no_answer_is_taken() -> None:
    wishes = {
        "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex",
        "verbosity": "low", "reasoning_effort": "high", "parallel_tool_calls": False,
        "presence_penalty": 0.0, "logprobs": False, "top_logprobs": 0, "stop": "",
        "response_format": {"type": "text"}, "prediction": {"type": "content", "content": "a"},
        "stream_options": None, "unheard_of": None,
    }  # fmt: skip
    assert read_chat(chat(HELLO, **wishes)) == read_chat(chat(HELLO))


def test_stop_texts_seed_and_choices_are_read() -> None:
    asked = read_chat(chat(HELLO, stop="\n", seed=7, n=4))
    assert (asked.sampling.stop, asked.sampling.seed, asked.choices) == (("\n",), 7, 4)
    assert read_chat(chat(HELLO, stop=["a", "b"])).sampling.stop == ("a", "b")


def form(*fields: tuple[str, str], file: bytes | None = b"x") -> Form:
    return Form(fields, file)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (form(file=None), "file"),
        (form(("stream", "maybe")), "stream"),
        (form(("temperature", "warm")), "temperature"),
        (form(("language", "en"), ("language", "de")), "language"),
        (form(("response_format", "docx")), "response_format"),
        (form(("chunking_strategy", "[" * 10_000)), "chunking_strategy"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(given: Form, param: str) -> None:
    with pytest.raises(BadOption) as caught:
        read_transcription(given)
    assert caught.value.param == param


def test_all_that_is_wrong_with_a_form_is_named_at_once() -> None:
    given = form(("stream", "maybe"), ("temperature", "2"), ("volume", "3"), ("language", "xx"))
    with pytest.raises(BadOption) as caught:
        read_transcription(given)
    assert caught.value.message == (
        "there is no parameter volume; language is 'xx', but must be an ISO 639-1 code; "
        "temperature is 2.0, but must be a number from 0 to 1; "
        "stream is 'maybe', but must be true or false"
    )


@pytest.mark.parametrize(
    "fields",
    [
        (("stream", "TRUE"), ("response_format", "text"), ("temperature", " 0.5 ")),
        (("chunking_strategy", '{"type": "server_vad"}'), ("prompt", "Names: Ann")),
        (("chunking_strategy[type]", "server_vad"), ("timestamp_granularities[]", "segment")),
        (("timestamp_granularities[]", "segment"), ("timestamp_granularities[]", "")),
        (("language", ""), ("temperature", ""), ("stream", ""), ("response_format", "")),
    ],
)
def test_a_field_may_be_written_as_programs_write_it(fields: tuple[tuple[str, str], ...]) -> None:
    asked = read_transcription(form(*fields))
    given = dict(fields)
    assert asked.file == b"x"
    assert asked.stream is (given.get("stream") == "TRUE")
    assert asked.response_format == (given.get("response_format") or "json")
    assert asked.sampling.temperature == float(given.get("temperature") or 0)
    assert asked.language is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ((("response_format", "diarized_json"),), "unsupported_parameter", "response_format"),
        (
            (("response_format", "srt"), ("stream", "true")),
            "unsupported_parameter",
            "response_format",
        ),
        ((("timestamp_granularities[]", "word"),), "unsupported_parameter", "timestamp_gran"),
        ((("chunking_strategy[type]", "none"),), "invalid_value", "chunking_strategy[type]"),
        ((("chunking_strategy[threshold]", "0.5"),), "unsupported_parameter", "chunking_strategy["),
        ((("known_speaker_names[]", "Ann"),), "unsupported_parameter", "known_speaker_names"),
        ((("file[]", "x"),), "unknown_parameter", "file[]"),
    ],
)
def test_what_a_transcription_does_not_offer_has_a_code(
    fields: tuple[tuple[str, str], ...], code: str, param: str
) -> None:
    with pytest.raises(BadOption) as caught:
        read_transcription(form(*fields))
    assert caught.value.openai_code == code
    assert str(caught.value.param).startswith(param)


def session(**options: Any) -> SessionOptions:
    return SessionOptions().updated({"type": "realtime", **options}, NAMES)


def heard(**options: Any) -> SessionOptions:
    return session(audio={"input": options})


def test_a_sessions_options_are_the_workers_own() -> None:
    turns = {"type": "server_vad", "threshold": 0.25, "prefix_padding_ms": 64}
    options = heard(
        turn_detection={**turns, "silence_duration_ms": 700, "interrupt_response": False},
        format={"type": "audio/pcmu"},
        transcription={"language": "de"},
    )
    assert options.turn_detection == ServerVad(
        threshold=0.25,
        prefix_padding_ms=64,
        silence_duration_ms=700,
        create_response=True,
        interrupt_response=False,
    )
    assert options.transcription == Transcription(language="de")
    config = options.config()
    assert (config.threshold, config.pre_roll_ms, config.silence_ms) == (0.25, 64, 700)
    assert (config.encoding, config.sample_rate) == ("mulaw", 8000)
    assert (config.barge_in, config.answers_turns) == (False, True)
    assert config.max_length == 1024
    assert session(max_output_tokens="inf").config().max_length == MAX_NEW_TOKENS
    assert session(instructions="Be kind.").config().system_prompt == "Be kind."
    assert heard(turn_detection=None).config().answers_turns is False


def test_semantic_turn_detection_has_an_eagerness_and_no_times_of_its_own() -> None:
    options = heard(turn_detection={"type": "semantic_vad", "eagerness": "high"})
    config = options.config()
    assert (config.turn_detection, config.eagerness, config.silence_ms) == ("semantic", "high", 500)
    assert config.reopens_within_ms == 1000
    shown = options.as_object("s", "m")["audio"]["input"]["turn_detection"]
    assert shown == {
        "type": "semantic_vad",
        "eagerness": "high",
        "create_response": True,
        "interrupt_response": True,
    }
    assert heard(turn_detection={"type": "semantic_vad"}).turn_detection == SemanticVad()
    assert heard(turn_detection={"type": "server_vad"}).config().turn_detection == "silence"


def test_what_a_client_acts_upon_by_itself_does_not_change_afterwards() -> None:
    assert heard().config().reopens_within_ms == 800
    unanswered = {"type": "server_vad", "create_response": False}
    assert heard(turn_detection=unanswered).config().reopens_within_ms == 0
    assert SessionOptions().transcribing().config().reopens_within_ms == 0


def test_what_is_not_mentioned_stays_and_null_turns_off() -> None:
    before = heard(transcription={}, turn_detection={"type": "server_vad", "threshold": 0.1})
    after = before.updated({"type": "realtime", "audio": {"input": {}}}, NAMES)
    assert after == before == before.updated({"type": "realtime", "audio": {}}, NAMES)
    off = {"type": "realtime", "audio": {"input": {"transcription": None}}}
    assert before.updated(off, NAMES).transcription is None


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"type": None}, "session.type"),
        ({"type": "something"}, "session.type"),
        ({"audio": {"input": {"turn_detection": {}}}}, "session.audio.input.turn_detection.type"),
        ({"audio": {"input": {"format": {}}}}, "session.audio.input.format.type"),
        (
            {"audio": {"input": {"transcription": {"language": "english"}}}},
            "session.audio.input.transcription.language",
        ),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], param: str) -> None:
    with pytest.raises(BadOption) as caught:
        session(**options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a" * 100, "'" + "a" * 57 + "'..."),
        (10**99, "a very large number"),
        ([], "an empty list"),
        ([1, "a", None, 4], "[1, 'a', null, ...]"),
        ({"a": {"b": [[1]]}}, "{'a': {'b': [[...]]}}"),
        ([["a" * 50] * 3], "[[" + ("'" + "a" * 50 + "', ") * 2 + "'aaaaaa..."),
        (None, "null"),
        (True, "true"),
    ],
)
def test_a_value_is_shown_in_a_few_words(value: object, words: str) -> None:
    assert shown(value) == words


def test_an_error_of_the_workers_own_keeps_its_status() -> None:
    told = within("file", TooLarge("audio is longer than 1800 s"))
    assert (told.http_status, told.param) == (413, "file")
    assert error_object(told)["code"] == "payload_too_large"
    assert within("messages", told) is told
    assert error_object(BadInput("x"))["code"] is None


async def test_who_finds_no_place_for_a_large_body_is_refused() -> None:
    bodies = Bodies(places=1, timeout_s=0.05)
    async with bodies.place():
        with pytest.raises(AtCapacity):
            async with bodies.place(26 << 20):
                pytest.fail("there was no place")
        async with asyncio.timeout(5), bodies.place(1 << 20):
            pass
    async with asyncio.timeout(5), bodies.place():
        pass


@pytest.mark.parametrize(
    "audio",
    ["AP+A/w==", "AP+A/w", "AP-A_w==\n", " AP+A\r\n/w==", "DATA:;base64,AP%2BA/w=="],
)
def test_the_base64_of_any_program_may_be_appended(audio: str) -> None:
    event = read_event({"type": "input_audio_buffer.append", "audio": audio})
    assert isinstance(event, InputAudioBufferAppend)
    assert event.audio == b"\x00\xff\x80\xff"


def test_what_is_no_base64_is_told_with_its_reason() -> None:
    with pytest.raises(BadOption, match=r"audio: this is not base64: it has '\*' in it") as caught:
        read_event({"type": "input_audio_buffer.append", "audio": "AAA*"})
    assert (caught.value.param, caught.value.openai_code) == ("audio", "invalid_base64")
