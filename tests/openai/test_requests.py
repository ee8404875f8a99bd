"""What callers ask for, read without a server."""

import asyncio
from typing import Any

import pytest

from voxtral_worker.errors import AtCapacity, BadInput, TooLarge
from voxtral_worker.server.openai.body import Bodies, Form
from voxtral_worker.server.openai.chat_request import EncodedAudio, read_chat
from voxtral_worker.server.openai.errors import BadOption, error_object, within
from voxtral_worker.server.openai.options import Options, shown
from voxtral_worker.server.openai.realtime.session_options import (
    MAX_NEW_TOKENS,
    SessionOptions,
    Transcription,
    TurnDetection,
)
from voxtral_worker.server.openai.transcription_request import read_transcription

AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
HELLO = {"role": "user", "content": "hello"}


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
    assert asked.said[0].parts == ("hello", sound, "who?", "\n\n", "where?")


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
        (chat({"role": "user"}), "messages[0].content"),
        (chat({"role": "user", "content": []}), "messages[0].content"),
        (chat({"role": "user", "content": " "}), "messages[0].content[0].text"),
        (chat({"role": "user", "content": "\ud800"}), "messages[0].content[0].text"),
        (chat({"role": "assistant", "content": [AUDIO]}), "messages[0].content[0].type"),
        (
            chat({"role": "user", "content": [{**AUDIO, "input_audio": {"data": "AAAA"}}]}),
            "messages[0].content[0].input_audio.format",
        ),
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


def form(*fields: tuple[str, str], file: bytes | None = b"x") -> Form:
    return Form(fields, file)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (form(file=None), "file"),
        (form(("stream", "maybe")), "stream"),
        (form(("temperature", "warm")), "temperature"),
        (form(("language", "en"), ("language", "de")), "language"),
        (form(("response_format", "vtt")), "response_format"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(given: Form, param: str) -> None:
    with pytest.raises(BadOption) as caught:
        read_transcription(given)
    assert caught.value.param == param


def session(**options: Any) -> SessionOptions:
    wanted = Options({"type": "realtime", **options}, "session")
    return SessionOptions().updated(wanted, "m")


def heard(**options: Any) -> SessionOptions:
    return session(audio={"input": options})


def test_a_sessions_options_are_the_workers_own() -> None:
    turns = {"type": "server_vad", "threshold": 0.25, "prefix_padding_ms": 64}
    options = heard(
        turn_detection={**turns, "silence_duration_ms": 700, "interrupt_response": False},
        format={"type": "audio/pcmu"},
        transcription={"language": "de"},
    )
    assert options.turn_detection == TurnDetection(0.25, 64, 700, True, False)
    assert options.transcription == Transcription("de")
    config = options.config()
    assert (config.threshold, config.pre_roll_ms, config.silence_ms) == (0.25, 64, 700)
    assert (config.encoding, config.sample_rate) == ("mulaw", 8000)
    assert (config.barge_in, config.answers_turns) == (False, True)
    assert config.max_length == 1024
    assert session(max_output_tokens="inf").config().max_length == MAX_NEW_TOKENS
    assert session(instructions="Be kind.").config().system_prompt == "Be kind."
    assert heard(turn_detection=None).config().answers_turns is False


def test_what_is_not_mentioned_stays_and_null_turns_off() -> None:
    before = heard(transcription={}, turn_detection={"type": "server_vad", "threshold": 0.1})
    after = before.updated(Options({"type": "realtime", "audio": {"input": {}}}, "session"), "m")
    assert after == before == before.updated(Options({"type": "realtime", "audio": {}}), "m")
    off = {"type": "realtime", "audio": {"input": {"transcription": None}}}
    assert before.updated(Options(off), "m").transcription is None


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
        ([1], "a list"),
        ({"a": 1}, "an object"),
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
