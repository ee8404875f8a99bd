"""`POST /v1/audio/speech`, as OpenAI's own client calls it, and as another worker does."""

import asyncio
import json
import wave
from collections.abc import AsyncIterator, Iterator
from io import BytesIO

import numpy as np
import pytest
from aiohttp import ClientSession
from openai import AsyncOpenAI, BadRequestError, InternalServerError

from tests.support.embedded_server import KEY, EmbeddedServer
from tests.support.voices import FakeVoice
from voxtral_worker.audio.clips import read_clip
from voxtral_worker.errors import SpeechFailed
from voxtral_worker.settings import Settings
from voxtral_worker.speech.speech import Speech, open_speech
from voxtral_worker.speech.voice import VOICE_RATE


@pytest.fixture(scope="module")
def voice() -> FakeVoice:
    return FakeVoice()


@pytest.fixture(scope="module")
def humming(voice: FakeVoice) -> Iterator[EmbeddedServer]:
    """A worker whose voice does as a test says."""
    server = EmbeddedServer(Speech(voice, "hum"))
    yield server
    server.stop()


@pytest.fixture
async def openai(voiced: EmbeddedServer) -> AsyncIterator[AsyncOpenAI]:
    async with voiced.client() as client:
        yield client


@pytest.mark.parametrize("format_", ["mp3", "wav", "flac", "opus"])
async def test_each_format_is_a_file_of_the_text(openai: AsyncOpenAI, format_: str) -> None:
    answer = await openai.audio.speech.create(
        model="tts-1",
        voice="alloy",
        input="The kitchen light is on.",
        response_format=format_,  # type: ignore[arg-type]
    )
    samples = read_clip(answer.content, max_seconds=60)
    assert 1.0 < len(samples) / 16_000 < 3.0
    assert float(np.abs(samples).max()) > 0.1


async def test_the_worker_understands_what_it_says(
    voiced: EmbeddedServer, openai: AsyncOpenAI
) -> None:
    words = "Turn on the kitchen light."
    spoken = await openai.audio.speech.create(
        model="gpt-4o-mini-tts",
        voice="default",
        input=words,
        response_format="wav",
        instructions="Speak warmly.",
    )
    heard = await openai.audio.transcriptions.create(
        model="voxtral-tiny", file=("said.wav", spoken.content)
    )
    assert heard.text.strip() == words


async def test_pcm_is_24_khz_and_speed_makes_it_shorter(openai: AsyncOpenAI) -> None:
    async def length(speed: float) -> int:
        answer = await openai.audio.speech.create(
            model="tts-1",
            voice="alloy",
            input="One, two, three.",
            response_format="pcm",
            speed=speed,
        )
        return len(answer.content)

    usual, fast = await length(1.0), await length(1.5)
    assert 0.8 < usual / 2 / VOICE_RATE < 3.0
    assert fast < 0.85 * usual


async def test_the_first_sentence_is_sent_before_the_last_is_made(
    humming: EmbeddedServer, voice: FakeVoice
) -> None:
    voice.said.clear()
    async with ClientSession() as http:
        asked = {"input": "First sentence. Second sentence waits.", "response_format": "wav"}
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{humming.url}/v1/audio/speech"
        async with http.post(url, json=asked, headers=headers) as response:
            assert response.headers["Content-Type"] == "audio/wav"
            async with asyncio.timeout(30):
                first = await response.content.readany()
            assert first.startswith(b"RIFF")
            rest = await response.content.read()
    assert len(first + rest) > 2 * VOICE_RATE
    assert [text for text, _, _ in voice.said] == ["First sentence.", "Second sentence waits."]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"input": ""}, "input is empty"),
        ({"input": "x" * 4097}, "input has 4097 characters, but may have 4096"),
        ({"response_format": "aac"}, "response_format is 'aac', but must be one of mp3, opus"),
        ({"speed": 9}, "speed is 9, but must be a number from 0.25 to 4"),
        ({"voice": "bass"}, "voice is 'bass', but must be one of default, heart"),
        ({"loudness": 3}, "there is no parameter loudness"),
        ({"stream_format": "sse"}, "stream_format is 'sse', but must be one of audio"),
    ],
)
async def test_what_cannot_be_done_is_named(
    voiced: EmbeddedServer, wrong: dict[str, object], told: str
) -> None:
    asked = {"model": "tts-1", "voice": "alloy", "input": "Hello.", **wrong}
    status, body = await post(voiced, asked)
    assert status == 400
    assert told in body["error"]["message"]
    assert body["error"]["param"] == next(iter(wrong))


async def post(server: EmbeddedServer, asked: object) -> tuple[int, dict[str, dict[str, str]]]:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    async with ClientSession(headers=headers) as http:
        url = f"{server.url}/v1/audio/speech"
        async with http.post(url, data=json.dumps(asked)) as response:
            return response.status, await response.json()


async def test_an_input_that_is_missing_is_named(voiced: EmbeddedServer) -> None:
    status, body = await post(voiced, {"voice": "alloy"})
    assert (status, body["error"]["param"]) == (400, "input")


async def test_a_worker_without_a_voice_says_so(embedded: EmbeddedServer) -> None:
    async with embedded.client() as client:
        with pytest.raises(BadRequestError, match="SPEECH is off"):
            await client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")


async def test_a_voice_that_fails_is_a_503(humming: EmbeddedServer, voice: FakeVoice) -> None:
    voice.error = SpeechFailed("the speech server cannot be reached")
    try:
        async with humming.client() as client:
            with pytest.raises(InternalServerError, match="cannot be reached") as told:
                await client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")
        assert told.value.status_code == 503
        assert told.value.code == "speech_failed"
    finally:
        voice.error = None


async def test_a_voice_that_fails_in_mid_file_cuts_the_file_off(
    humming: EmbeddedServer, voice: FakeVoice
) -> None:
    voice.said.clear()
    headers = {"Authorization": f"Bearer {KEY}"}
    asked = {"input": "First sentence. Second sentence.", "response_format": "pcm"}
    voice.may_speak.clear()
    async with ClientSession(headers=headers) as http:

        async def read() -> bytes:
            async with http.post(f"{humming.url}/v1/audio/speech", json=asked) as response:
                return await response.content.read()

        reading = asyncio.create_task(read())
        async with asyncio.timeout(30):
            while not voice.said:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # The first is on its way; the second will fail.
        voice.error = SpeechFailed("gone")
        try:
            set_from_its_loop(voice)
            with pytest.raises(Exception, match="(?i)payload|closed|reset|disconnected"):
                await reading
        finally:
            voice.error = None


def set_from_its_loop(voice: FakeVoice) -> None:
    loop = voice.may_speak._loop  # type: ignore[attr-defined]
    loop.call_soon_threadsafe(voice.may_speak.set)


async def test_another_worker_speaks_through_this_one(voiced: EmbeddedServer) -> None:
    settings = Settings(speech=f"{voiced.url}/v1", speech_api_key=KEY, speech_voice="heart")
    speech = open_speech(settings)
    assert speech is not None
    speech.start()
    try:
        samples = [s async for s in speech.say("The kitchen light is on.")]
        assert 1.0 < sum(map(len, samples)) / VOICE_RATE < 3.0
    finally:
        await asyncio.to_thread(speech.stop)


async def test_health_names_the_voices(voiced: EmbeddedServer, embedded: EmbeddedServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with ClientSession(headers=headers) as http:
        async with http.get(f"{voiced.url}/health") as response:
            assert (await response.json())["voices"] == ["default", "heart"]
        async with http.get(f"{embedded.url}/health") as response:
            assert (await response.json())["voices"] == []


def test_a_wav_of_a_stream_can_be_read_although_its_length_is_unknown() -> None:
    # What `wave` reads of a header whose sizes are unknown is up to the end of the file.
    from tests.support.voices import hum
    from voxtral_worker.speech.files import SpeechFile

    file = SpeechFile("wav")
    data = file.push(hum(500)) + file.finish()
    with wave.open(BytesIO(data)) as read:
        assert read.getframerate() == VOICE_RATE
        assert len(read.readframes(VOICE_RATE)) == VOICE_RATE
