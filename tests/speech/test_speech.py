"""The one voice for all callers, on its own thread."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing

import numpy as np
import pytest

from tests.support.voices import MS_PER_CHARACTER, FakeVoice
from voxtral_worker.errors import AtCapacity, BadInput, LoadFailure, SpeechFailed
from voxtral_worker.settings import Settings
from voxtral_worker.speech import speech as speech_module
from voxtral_worker.speech.speech import Speech, open_speech
from voxtral_worker.speech.voice import VOICE_RATE


@pytest.fixture
def voice() -> FakeVoice:
    return FakeVoice()


@pytest.fixture
def speech(voice: FakeVoice) -> Iterator[Speech]:
    speech = Speech(voice, "hum")
    speech.start()
    yield speech
    speech.stop()


async def length_ms(speech: Speech, text: str, voice: str = "default") -> float:
    pieces = [len(samples) async for samples in speech.say(text, voice)]
    return 1000 * sum(pieces) / VOICE_RATE


async def until(holds: object) -> None:
    async with asyncio.timeout(30):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_text_is_said_without_its_marks_by_the_voice_that_is_meant(
    speech: Speech, voice: FakeVoice
) -> None:
    assert await length_ms(speech, "**Hello.** ") == 6 * MS_PER_CHARACTER
    await length_ms(speech, "Hello.", "buzz")
    await length_ms(speech, "Hello.", "alloy")
    assert [name for _, name, _ in voice.said] == ["hum", "buzz", "hum"]
    assert voice.said[0][0] == "Hello."


async def test_a_voice_that_there_is_not_is_refused_with_those_there_are(speech: Speech) -> None:
    with pytest.raises(BadInput, match="'bass', but must be one of default, hum, buzz"):
        await length_ms(speech, "Hello.", "bass")


async def test_whoever_stops_listening_stops_the_voice_at_once(
    speech: Speech, voice: FakeVoice
) -> None:
    voice.may_speak.clear()
    saying = asyncio.create_task(length_ms(speech, "Hello."))
    await until(lambda: voice.said)
    saying.cancel()
    await until(lambda: voice.stopped == 1)


async def test_a_failing_voice_is_logged_once_and_once_when_it_works_again(
    speech: Speech, voice: FakeVoice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    voice.error = SpeechFailed("the speech server cannot be reached")
    for _ in range(3):
        with pytest.raises(SpeechFailed, match="cannot be reached"):
            await length_ms(speech, "Hello.")
    voice.error = None
    await length_ms(speech, "Hello.")
    told = [record.getMessage() for record in caplog.records if "voice took" not in record.msg]
    assert told == [
        "speech: the speech server cannot be reached; answers go on as text",
        "speech: the voice works again",
    ]


async def test_whatever_a_voice_raises_is_told_as_its_failure(
    speech: Speech, voice: FakeVoice
) -> None:
    voice.error = ZeroDivisionError()
    with pytest.raises(SpeechFailed, match="the voice failed"):
        await length_ms(speech, "Hello.")


async def test_more_texts_than_can_wait_are_refused(
    speech: Speech, voice: FakeVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_module, "MOST_AT_ONCE", 2)
    voice.may_speak.clear()
    waiting = [asyncio.create_task(length_ms(speech, "Hello.")) for _ in range(2)]
    await until(lambda: len(voice.said) == 2)
    with pytest.raises(AtCapacity):
        await length_ms(speech, "Hello.")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_listens_when_the_worker_stops_hears_the_end(
    speech: Speech, voice: FakeVoice
) -> None:
    voice.may_speak.clear()
    saying = asyncio.create_task(length_ms(speech, "Hello."))
    await until(lambda: voice.said)
    await asyncio.to_thread(speech.stop)
    async with asyncio.timeout(30):
        assert await saying == 0


async def test_a_whole_text_is_read_a_sentence_at_a_time(speech: Speech, voice: FakeVoice) -> None:
    async with aclosing(speech.read_aloud("One here. Two here. 😀", "buzz", 2.0)) as pieces:
        lengths = [len(samples) async for samples in pieces]
    assert [text for text, _, _ in voice.said] == ["One here.", "Two here.", "😀"]
    assert lengths == [int(VOICE_RATE * 0.45 / 2)] * 2


def test_the_settings_say_which_voice_there_is() -> None:
    assert open_speech(Settings(speech="off")) is None
    embedded = open_speech(Settings(speech="embedded"))
    assert embedded is not None
    assert embedded.voices == ("default", "heart")
    assert embedded.voice_named("default") == embedded.voice_named("alloy") == "heart"
    remote = open_speech(Settings(speech="http://localhost:1/v1", speech_voice="bella"))
    assert remote is not None
    assert remote.voices == ("default",)
    assert remote.voice_named("default") == "bella"
    assert remote.voice_named("anybody") == "anybody"


def test_a_voice_that_cannot_be_had_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadFailure, match="SPEECH_VOICE: voice is 'bass'"):
        open_speech(Settings(speech="embedded", speech_voice="bass"))
    monkeypatch.setattr(speech_module, "is_installed", lambda: False)
    assert open_speech(Settings()) is None
    with pytest.raises(LoadFailure, match="SPEECH is embedded.*not installed"):
        open_speech(Settings(speech="embedded"))


async def test_the_embedded_voice_serves_several_at_once() -> None:
    speech = open_speech(Settings(speech="embedded"))
    assert speech is not None
    speech.start()
    try:
        texts = [f"This is number {number}." for number in range(4)]
        lengths = await asyncio.gather(*(length_ms(speech, text) for text in texts))
        assert all(700 < length < 3000 for length in lengths), lengths
        assert np.isfinite(lengths).all()
    finally:
        await asyncio.to_thread(speech.stop)
