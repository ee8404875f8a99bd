"""Answers of jobs as speech."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.job_fakes import SteppingEngine
from tests.support.voices import MS_PER_CHARACTER, FakeVoice
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.errors import SpeechFailed
from voxtral_worker.jobs import speech as speech_of_jobs
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import Speech


class Jobs:
    """A handler whose engine says what it is asked, and whose voice hums it."""

    def __init__(self) -> None:
        self.engine = SteppingEngine()
        self.voice = FakeVoice()
        self.speech = Speech(self.voice, "hum")
        self.speech.start()

    async def output(self, **fields: Any) -> list[dict[str, Any]]:
        handler = JobHandler(self.engine, dict, Settings(), speech=self.speech)
        job = {"id": "j1", "input": {"type": "text", **fields}}
        return [piece async for piece in handler.handle(job)]


@pytest.fixture
async def jobs() -> AsyncIterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.speech.stop()
    jobs.engine.stop()


@pytest.mark.parametrize("format_", [None, "mp3", "wav"])
async def test_an_answer_comes_with_its_speech(jobs: Jobs, format_: str | None) -> None:
    wish = {} if format_ is None else {"speech_format": format_}
    (piece,) = await jobs.output(text="one two", **{"speech": True, **wish})
    assert piece["text"] == "one two "
    said = piece["speech"]
    assert said["format"] == (format_ or "mp3")
    assert said["is_whole"] is True
    assert said["duration_ms"] == len("one two") * MS_PER_CHARACTER
    samples = read_clip(base64.b64decode(said["audio_base64"]), max_seconds=60)
    assert len(samples) / 16 == pytest.approx(said["duration_ms"], abs=120)


async def test_each_of_several_answers_has_its_own(jobs: Jobs) -> None:
    pieces = await jobs.output(texts=["one", "two three"], speech=True, voice="buzz")
    assert [piece["speech"]["duration_ms"] for piece in pieces] == [150, 450]
    assert {name for _, name, _ in jobs.voice.said} == {"buzz"}


async def test_without_the_wish_nothing_is_spoken(jobs: Jobs) -> None:
    (piece,) = await jobs.output(text="one", speech=False)
    assert "speech" not in piece
    assert jobs.voice.said == []


async def test_a_voice_that_fails_leaves_the_text(jobs: Jobs) -> None:
    jobs.voice.error = SpeechFailed("the speech server cannot be reached")
    (piece,) = await jobs.output(text="one", speech=True)
    assert piece["text"] == "one "
    told = {"error": "the speech server cannot be reached (SPEECH_FAILED)"}
    assert piece["speech"] == told


async def test_a_very_long_answer_is_cut_and_says_so(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_of_jobs, "MAX_MS", 500)
    (piece,) = await jobs.output(text="A sentence here. Another one. A third.", speech=True)
    assert piece["speech"]["is_whole"] is False
    assert piece["speech"]["duration_ms"] < 1000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"speech": "yes"}, "speech is 'yes', but must be true or false"),
        ({"speech": True, "voice": "bass"}, "voice is 'bass', but must be one of default, hum"),
        ({"speech": True, "voice": ""}, "voice is '', but must be the name of a voice"),
        ({"speech": True, "voice": 7}, "voice is 7, but must be the name of a voice"),
        ({"speech": True, "speech_format": "ogg"}, "speech_format is 'ogg', but must be one of"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_named(
    jobs: Jobs, fields: dict[str, Any], told: str
) -> None:
    (piece,) = await jobs.output(text="one", **fields)
    assert told in piece["error"]


async def test_a_worker_without_a_voice_says_so(jobs: Jobs) -> None:
    handler = JobHandler(jobs.engine, dict, Settings())
    job = {"id": "j1", "input": {"type": "text", "text": "one", "speech": True}}
    (piece,) = [piece async for piece in handler.handle(job)]
    assert "SPEECH is off" in piece["error"]
