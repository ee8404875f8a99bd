"""Transcriptions, by OpenAI's own client."""

import io
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai import AsyncOpenAI

from tests.openai.embedded import MODEL, EmbeddedServer, clip
from voxtral_worker.audio.clips import read_clip

LIGHT = "turn-on-the-kitchen-light"
WORDS = "Turn on the kitchen light."


def file(data: bytes | None = None, name: str = "a.wav") -> tuple[str, bytes]:
    return name, clip(LIGHT) if data is None else data


def long_recording() -> bytes:
    """Two sentences, each in its own window of 30 s, as FLAC."""
    parts = [read_clip(clip(name), max_seconds=60) for name in (LIGHT, "stop-the-music")]
    samples = np.zeros(40 * 16_000, np.float32)
    samples[16_000 : 16_000 + len(parts[0])] = parts[0]
    samples[31 * 16_000 : 31 * 16_000 + len(parts[1])] = parts[1]
    data = io.BytesIO()
    soundfile.write(data, samples, 16_000, format="FLAC")
    return data.getvalue()


async def test_a_file_is_written_down(client: AsyncOpenAI) -> None:
    made = await client.audio.transcriptions.create(
        model=MODEL, file=file(), language="en", temperature=0
    )
    assert made.text == WORDS
    assert made.usage is not None
    assert made.usage.type == "tokens"
    assert made.usage.input_token_details is not None
    assert made.usage.input_token_details.audio_tokens == 375


async def test_as_text_there_are_only_the_words(client: AsyncOpenAI) -> None:
    made = await client.audio.transcriptions.create(
        model=MODEL, file=file(), response_format="text"
    )
    assert made.strip() == WORDS


async def test_verbose_has_a_segment_for_each_window(client: AsyncOpenAI) -> None:
    made = await client.audio.transcriptions.create(
        model=MODEL,
        file=file(long_recording(), "a.flac"),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        language="en",
    )
    assert made.text == f"{WORDS} Stop the music."
    assert made.language == "en"
    assert made.duration == 40.0
    assert made.segments is not None
    first, second = made.segments
    assert (first.start, second.end) == (0, 40)
    assert first.end == second.start
    assert (first.text, second.text) == (WORDS, "Stop the music.")
    assert first.tokens
    assert made.usage is not None
    assert made.usage.seconds == 40


async def test_a_stream_has_the_same_words(client: AsyncOpenAI) -> None:
    stream = await client.audio.transcriptions.create(
        model=MODEL, file=file(long_recording(), "a.flac"), stream=True
    )
    *deltas, done = [event async for event in stream]
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 3
    assert done.type == "transcript.text.done"
    assert done.text == f"{WORDS} Stop the music."
    assert "".join(event.delta for event in deltas) == done.text  # type: ignore[union-attr]
    assert done.usage is not None


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": "srt"}, "response_format"),
        ({"response_format": "loud"}, "response_format"),
        ({"response_format": "verbose_json", "stream": True}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"include": ["logprobs"]}, "include[]"),
        ({"prompt": "the kitchen"}, "prompt"),
        ({"temperature": 2}, "temperature"),
        ({"language": "english"}, "language"),
        ({"chunking_strategy": {"type": "server_vad"}}, "chunking_strategy"),
        ({"file": ("a.wav", b"no sound")}, "file"),
        ({"file": ("a.wav", b"")}, "file"),
        ({"extra_body": {"loudness": "1"}}, "loudness"),
    ],
)
async def test_what_is_not_offered_is_told_by_its_name(
    client: AsyncOpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(**{"model": MODEL, "file": file(), **options})
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.param in caught.value.message


async def test_only_the_served_model_can_be_asked(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.audio.transcriptions.create(model="whisper-1", file=file())
    assert caught.value.code == "model_not_found"


async def test_a_body_may_have_25_mib_and_no_more(
    embedded: EmbeddedServer, client: AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.audio.transcriptions.create(model=MODEL, file=file(bytes(2 << 20)))
    for create in (
        client.audio.transcriptions.create(model=MODEL, file=file(bytes(26 << 20))),
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a" * (26 << 20)}]
        ),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await create
        assert caught.value.status_code == 413
        assert "25 MiB" in caught.value.message
