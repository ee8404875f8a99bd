"""Transcriptions, by OpenAI's own client."""

import io
import math
import os
import re
import shutil
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai import AsyncOpenAI

from tests.support.audio_kinds import CLIPS, encoded
from tests.support.embedded_server import MODEL, EmbeddedServer, clip
from voxtral_worker.audio.clips import read_clip

LIGHT = "turn-on-the-kitchen-light"
WORDS = "Turn on the kitchen light."


def file(data: bytes | None = None, name: str = "a.wav") -> tuple[str, bytes]:
    return name, clip(LIGHT) if data is None else data


def recording(*parts: str | float) -> bytes:
    """Sentences by their clips' names, and silence in seconds between them, as FLAC."""
    pieces = [
        read_clip(clip(part), max_seconds=60)
        if isinstance(part, str)
        else np.zeros(int(part * 16_000), np.float32)
        for part in parts
    ]
    data = io.BytesIO()
    soundfile.write(data, np.concatenate(pieces), 16_000, format="FLAC")
    return data.getvalue()


def long_recording() -> bytes:
    """Two sentences, one second and half a minute after the beginning."""
    return recording(1.0, LIGHT, 29.0, "stop-the-music", 8.0)


async def test_a_file_is_written_down(client: AsyncOpenAI) -> None:
    made = await client.audio.transcriptions.create(
        model=MODEL, file=file(), language="en", temperature=0
    )
    assert made.text == WORDS
    assert made.usage is not None
    assert made.usage.type == "tokens"
    assert made.usage.input_token_details is not None
    heard = made.usage.input_token_details.audio_tokens
    assert heard is not None and 30 < heard < 64


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "phone.3gp", "a.wav", ""])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("ipod", "aac -ar 48000"), ("webm", "libopus"), ("mp3", "libmp3lame"), ("asf", "wmav2")],
)
async def test_what_kind_of_file_it_is_its_bytes_say(
    client: AsyncOpenAI, name: str, container: str, codec: str
) -> None:
    if shutil.which("ffmpeg") is None and not os.environ.get("CI"):
        pytest.skip("FFmpeg is not installed")
    data = encoded(container, f"-c:a {codec}", inputs="-t 1.9")
    made = await client.audio.transcriptions.create(model=MODEL, file=file(data, name))
    assert made.text == WORDS


@pytest.mark.parametrize("name", ["a.webm", "a.mp4", "a.m3u8", "a.wav"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {path}\n",
        "v=0\nm=audio 9 RTP/AVP 0\n",
    ],
)
async def test_a_playlist_under_a_recordings_name_is_refused(
    client: AsyncOpenAI, name: str, text: str
) -> None:
    playlist = text.format(path=CLIPS / f"{LIGHT}.wav").encode()
    with pytest.raises(openai.BadRequestError, match="playlist") as caught:
        await client.audio.transcriptions.create(model=MODEL, file=file(playlist, name))
    assert caught.value.param == "file"


async def test_as_text_there_are_only_the_words(client: AsyncOpenAI) -> None:
    made = await client.audio.transcriptions.create(
        model=MODEL, file=file(), response_format="text"
    )
    assert made.strip() == WORDS


async def test_verbose_has_a_segment_for_each_sentence_with_its_true_times(
    client: AsyncOpenAI,
) -> None:
    names = (LIGHT, "stop-the-music", "what-time-is-it")
    sound = recording(1.0, names[0], 0.8, names[1], 45.0, names[2], 3.0)
    made = await client.audio.transcriptions.create(
        model=MODEL,
        file=file(sound, "a.flac"),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        language="en",
    )
    assert made.text == f"{WORDS} Stop the music. What time is it?"
    assert made.language == "en"
    assert made.segments is not None
    assert [segment.text for segment in made.segments] == [
        WORDS,
        "Stop the music.",
        "What time is it?",
    ]
    assert [segment.id for segment in made.segments] == [0, 1, 2]
    at_s = 0.0
    for name, pause_s, segment in zip(names, (1.0, 0.8, 45.0), made.segments, strict=True):
        start_s = at_s + pause_s
        at_s = start_s + len(read_clip(clip(name), max_seconds=60)) / 16_000
        assert start_s - 0.4 < segment.start < start_s + 0.5
        assert at_s - 0.5 < segment.end < at_s + 0.4
        assert segment.tokens
    assert made.duration == pytest.approx(at_s + 3.0, abs=0.01)
    assert made.usage is not None
    assert made.usage.seconds == math.ceil(made.duration)


async def test_a_language_that_nobody_asked_for_is_found_in_the_first_words(
    client: AsyncOpenAI,
) -> None:
    # One of these sentences alone would not show it.
    sound = recording("what-time-is-it", 0.8, "one-moment-please", 3.0, LIGHT)
    made = await client.audio.transcriptions.create(
        model=MODEL, file=file(sound, "a.flac"), response_format="verbose_json"
    )
    assert made.language == "en"


async def test_sentences_that_are_close_together_cost_one_window(client: AsyncOpenAI) -> None:
    sound = recording(1.0, LIGHT, 0.8, "stop-the-music", 60.0, "what-time-is-it", 60.0)
    beside_audio = []
    for each in (recording(1.0, LIGHT, 1.0), sound):
        made = await client.audio.transcriptions.create(
            model=MODEL, file=file(each, "a.flac"), language="en"
        )
        assert made.usage is not None
        assert made.usage.type == "tokens"
        assert made.usage.input_token_details is not None
        beside_audio.append(made.usage.input_token_details.text_tokens or 0)
    # Every window's prompt has the same tokens in addition to its audio.
    assert beside_audio[1] == 2 * beside_audio[0]


async def test_subtitles_are_written_from_the_segments(client: AsyncOpenAI) -> None:
    texts = {}
    for form in ("srt", "vtt"):
        texts[form] = await client.audio.transcriptions.create(
            model=MODEL, file=file(long_recording(), "a.flac"), response_format=form
        )
    srt = texts["srt"].split("\n\n")
    number, times, words = srt[0].splitlines()
    assert (number, words) == ("1", WORDS)
    assert re.fullmatch(r"00:00:0[01],\d{3} --> 00:00:0[23],\d{3}", times)
    number, times, words = srt[1].splitlines()
    assert (number, words) == ("2", "Stop the music.")
    assert re.fullmatch(r"00:00:3[123],\d{3} --> 00:00:3[345],\d{3}", times)
    assert srt[2:] == [""]
    head, first, second, _ = texts["vtt"].split("\n\n")
    assert head == "WEBVTT"
    assert first.splitlines()[1] == WORDS
    assert re.fullmatch(r"00:00:3[123]\.\d{3} --> 00:00:3[345]\.\d{3}", second.splitlines()[0])


@pytest.mark.parametrize(
    ("form", "expected"),
    [("json", ""), ("text", "\n"), ("verbose_json", ""), ("srt", ""), ("vtt", "WEBVTT\n\n")],
)
async def test_a_recording_of_silence_has_no_words_and_costs_nothing(
    client: AsyncOpenAI, form: Any, expected: str
) -> None:
    made = await client.audio.transcriptions.create(
        model=MODEL, file=file(recording(65.0), "a.flac"), response_format=form
    )
    assert getattr(made, "text", made) == expected
    if form == "json":
        assert made.usage.total_tokens == 0
    if form == "verbose_json":
        assert made.segments == []
        assert made.duration == 65.0


async def test_silence_between_two_sentences_adds_no_words(client: AsyncOpenAI) -> None:
    sound = recording(LIGHT, 60.0, "stop-the-music")
    made = await client.audio.transcriptions.create(model=MODEL, file=file(sound, "a.flac"))
    assert made.text == f"{WORDS} Stop the music."


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "The kitchen."},
        {"chunking_strategy": "auto"},
        {"chunking_strategy": {"type": "server_vad"}},
        {"extra_body": {"chunking_strategy": '{"type": "server_vad"}'}},
        {"extra_body": {"stream": "", "language": "", "temperature": "", "response_format": ""}},
        {"timestamp_granularities": ["segment"]},
    ],
)
async def test_what_changes_nothing_is_taken(client: AsyncOpenAI, options: dict[str, Any]) -> None:
    made = await client.audio.transcriptions.create(model=MODEL, file=file(), **options)
    assert made.text == WORDS


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
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "loud"}, "response_format"),
        ({"response_format": "verbose_json", "stream": True}, "response_format"),
        ({"response_format": "srt", "stream": True}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"timestamp_granularities": ["segment", "word"]}, "timestamp_granularities"),
        ({"include": ["logprobs"]}, "include"),
        ({"temperature": 2}, "temperature"),
        ({"language": "english"}, "language"),
        ({"chunking_strategy": {"type": "by_ear"}}, "chunking_strategy[type]"),
        (
            {"chunking_strategy": {"type": "server_vad", "threshold": 0.2}},
            "chunking_strategy[threshold]",
        ),
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
