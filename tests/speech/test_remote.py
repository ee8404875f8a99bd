"""A speech server elsewhere: what it is asked, and how it may fail."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web

from tests.support.voices import FakeSpeechServer, hum, wav
from voxtral_worker.errors import SpeechFailed
from voxtral_worker.speech import remote
from voxtral_worker.speech.remote import RemoteVoice, read_header
from voxtral_worker.speech.voice import VOICE_RATE, Samples


@pytest.fixture
async def speech_server() -> AsyncIterator[FakeSpeechServer]:
    async with FakeSpeechServer() as speech_server:
        yield speech_server


@pytest.fixture
async def voice(speech_server: FakeSpeechServer) -> AsyncIterator[RemoteVoice]:
    voice = RemoteVoice(speech_server.url, "some-model", "a secret")
    await voice.load()
    yield voice
    await voice.close()


async def say(voice: RemoteVoice, text: str = "Hello there.", speed: float = 1.0) -> Samples:
    pieces = [samples async for samples in voice.say(text, "nova", speed)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


async def test_the_server_is_asked_as_openai_is(
    speech_server: FakeSpeechServer, voice: RemoteVoice
) -> None:
    samples = await say(voice)
    await say(voice, "Faster.", 1.5)
    assert speech_server.asked[0] == {
        "model": "some-model",
        "input": "Hello there.",
        "voice": "nova",
        "response_format": "wav",
    }
    assert speech_server.asked[1]["speed"] == 1.5
    assert speech_server.headers[0]["Authorization"] == "Bearer a secret"
    # The server's rate is 16 kHz.
    assert len(samples) == pytest.approx(VOICE_RATE * 0.6, abs=300)
    assert float(np.abs(samples).max()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
async def test_the_header_says_the_rate(
    speech_server: FakeSpeechServer, voice: RemoteVoice, rate: int, channels: int
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=wav(hum(1000, rate), rate, channels))

    speech_server.answer = answer
    assert len(await say(voice)) == pytest.approx(VOICE_RATE, abs=100)


async def test_speech_is_handed_on_while_the_rest_is_made(
    speech_server: FakeSpeechServer, voice: RemoteVoice
) -> None:
    may_go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        data = wav(hum(1000), VOICE_RATE)
        response = web.StreamResponse()
        await response.prepare(request)
        # In the middle of a header, and of a sample.
        for part in (data[:30], data[30:20_045]):
            await response.write(part)
        await may_go_on.wait()
        await response.write(data[20_045:])
        return response

    speech_server.answer = answer
    said = voice.say("Hello.", "nova", 1.0)
    first = await anext(said)
    assert len(first)
    may_go_on.set()
    rest = [samples async for samples in said]
    assert len(np.concatenate([first, *rest])) == VOICE_RATE


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (web.Response(status=401, text='{"error": "no key"}'), "status 401.*no key"),
        (web.Response(status=500), "status 500: nothing more"),
        (web.Response(status=302, headers={"Location": "/v1/elsewhere"}), "status 302"),
        (web.Response(body=b"ID3 this is an mp3"), "no wav"),
        (web.Response(body=b""), "no wav"),
        (
            web.Response(body=b"RIFF\xff\xff\xff\xffWAVE" + b"junk\xff\xff\x00\x00" * 600),
            "near its",
        ),
        (web.Response(body=wav(hum(100), 24_000)[:20]), "no wav"),
    ],
)
async def test_a_server_that_fails_is_told_in_one_sentence(
    speech_server: FakeSpeechServer, voice: RemoteVoice, response: web.Response, told: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return response

    speech_server.answer = answer
    with pytest.raises(SpeechFailed, match=told):
        await say(voice)


async def test_an_answer_without_end_is_cut_off(
    speech_server: FakeSpeechServer, voice: RemoteVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_SECONDS", 2)

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(wav(hum(1000), VOICE_RATE))
        while True:
            await response.write(bytes(48_000))

    speech_server.answer = answer
    with pytest.raises(SpeechFailed, match="longer than 2 s"):
        await say(voice)


async def test_a_server_that_does_not_answer_is_not_waited_for(
    speech_server: FakeSpeechServer, voice: RemoteVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TOTAL_S", 0.2)

    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    speech_server.answer = answer
    with pytest.raises(SpeechFailed, match="in time"):
        await say(voice)


async def test_a_server_that_is_not_there_is_told() -> None:
    voice = RemoteVoice("http://127.0.0.1:9/v1")
    with pytest.raises(SpeechFailed, match="cannot be reached"):
        await say(voice)
    await voice.close()


async def test_a_connection_lost_in_the_middle_is_told(
    speech_server: FakeSpeechServer, voice: RemoteVoice
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(wav(hum(100), VOICE_RATE))
        assert request.transport is not None
        request.transport.abort()
        return response

    speech_server.answer = answer
    with pytest.raises(SpeechFailed, match="cannot be reached"):
        await say(voice)


@pytest.mark.parametrize(
    "data",
    [
        b"OggS",
        b"RIFF\x00\x00\x00\x00AVI ",
        b"RIFF\xff\xff\xff\xffWAVEdata\x00\x00\x00\x00",
        # 32-bit floats.
        wav(hum(10), 24_000)[:20] + b"\x03\x00" + wav(hum(10), 24_000)[22:],
        # No channels at all.
        wav(hum(10), 24_000)[:22] + b"\x00\x00" + wav(hum(10), 24_000)[24:],
    ],
)
def test_what_is_no_wav_of_16_bits_is_refused(data: bytes) -> None:
    with pytest.raises(SpeechFailed):
        read_header(data)


def test_chunks_before_the_samples_are_passed_over() -> None:
    plain = wav(hum(10), 24_000)
    found = read_header(plain[:12] + b"LIST\x03\x00\x00\x00abc\x00" + plain[12:])
    assert found is not None
    assert (found.rate, found.channels, found.begin) == (24_000, 1, 56)
    assert all(read_header(plain[:size]) is None for size in range(44))
