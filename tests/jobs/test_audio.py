"""What becomes of a recording."""

import asyncio
import base64
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.fakes import FakeEngine, Say, echo
from voxtral_worker.audio.recordings import RECORDINGS_AT_ONCE, Recordings
from voxtral_worker.engine.conversation import Audio, Conversation
from voxtral_worker.engine.pauses import cut_at_pauses
from voxtral_worker.engine.transcript import WINDOWS_AT_ONCE, Script
from voxtral_worker.errors import TooLarge
from voxtral_worker.jobs.audio import read_source
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.schema import AudioSource
from voxtral_worker.settings import Settings

RATE = 16_000


def recording(seconds: float, rate: int = RATE, container: str = "WAV") -> str:
    samples = np.random.default_rng(1).uniform(-0.1, 0.1, int(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def engines() -> Iterator[list[FakeEngine]]:
    started: list[FakeEngine] = []
    yield started
    for engine in started:
        engine.stop()


async def run(engines: list[FakeEngine], say: Say = echo, **fields: Any) -> list[dict[str, Any]]:
    engines.append(FakeEngine(say, step_s=0.005))
    handler = JobHandler(engines[-1], dict, Settings())
    return [piece async for piece in handler.handle({"id": "j1", "input": fields})]


async def test_a_short_recording_is_one_greedy_request(engines: list[FakeEngine]) -> None:
    pieces = await run(engines, type="transcribe", audio_base64=recording(1), language="en")
    assert [piece["text"] for piece in pieces] == ["window 16000"]
    request = engines[0].requests[0]
    assert request.conversation.transcribe
    assert request.conversation.language == "en"
    assert request.sampling.temperature == 0.0
    assert request.urgency == 2


async def test_any_rate_and_container_becomes_16_khz(engines: list[FakeEngine]) -> None:
    for container in ("WAV", "FLAC", "OGG", "MP3"):
        sound = recording(1, 44_100, container)
        pieces = await run(engines, type="transcribe", audio_base64=sound)
        samples = int(pieces[0]["text"].split()[1])
        assert abs(samples - RATE) < 2_000, container


async def test_a_long_recording_is_written_down_a_few_windows_at_a_time_and_in_order(
    engines: list[FakeEngine],
) -> None:
    def number_of_samples(conversation: Conversation) -> list[str]:
        (audio,) = conversation.user.parts
        assert isinstance(audio, Audio)
        # Longer windows take longer, so that later ones finish first.
        return [f"{len(audio.samples)}"] + [""] * (len(audio.samples) // 20_000)

    pieces = await run(
        engines, number_of_samples, type="transcribe", audio_base64=recording(181), stream=True
    )
    *deltas, last = pieces
    lengths = [int(word) for word in last["text"].split(" ")]
    assert sum(lengths) == 181 * RATE
    assert lengths == [len(r.conversation.user.parts[0].samples) for r in engines[0].requests]  # type: ignore[union-attr]
    assert "".join(delta["delta"] for delta in deltas) == last["text"]
    assert last["usage"]["prompt_tokens"] == 7 * len(lengths)
    assert engines[0].most_at_once <= WINDOWS_AT_ONCE


async def test_a_question_about_a_recording_comes_after_all_of_it(
    engines: list[FakeEngine],
) -> None:
    await run(engines, type="audio", audio_base64=recording(70), text="who?", system_prompt="x")
    (request,) = engines[0].requests
    audio, question = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert (audio.windows, question) == (3, "who?")
    assert request.conversation.system_prompt == "x"
    assert not request.conversation.transcribe


async def test_a_recording_that_does_not_fit_the_context_fails_with_its_field(
    engines: list[FakeEngine],
) -> None:
    pieces = await run(
        engines, lambda _: TooLarge("too long"), type="audio", audio_base64=recording(1)
    )
    assert pieces == [{"error": "audio_base64: too long (PAYLOAD_TOO_LARGE)"}]


async def test_base64_may_come_in_lines_or_as_a_data_address(engines: list[FakeEngine]) -> None:
    sound = recording(1)
    lines = "\n".join(sound[start : start + 76] for start in range(0, len(sound), 76))
    for value in (lines, "data:audio/wav;base64," + sound):
        pieces = await run(engines, type="transcribe", audio_base64=value)
        assert pieces[0]["text"] == "window 16000"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"audio_base64": "*"}, "audio_base64: this is not base64 (INVALID_REQUEST)"),
        ({"audio_base64": "ä"}, "audio_base64: this is not base64 (INVALID_REQUEST)"),
        (
            {"audio_base64": "AAAA"},
            "audio_base64: audio cannot be decoded: it must be wav, flac, mp3 or ogg "
            "(AUDIO_FORMAT_ERROR)",
        ),
        (
            {"audio_url": "http://127.0.0.1:1/a.wav"},
            "audio_url: the address is not a public one, or cannot be resolved (INVALID_REQUEST)",
        ),
    ],
)
async def test_a_recording_that_cannot_be_used_fails_with_its_field(
    engines: list[FakeEngine], fields: dict[str, str], error: str
) -> None:
    assert await run(engines, type="transcribe", **fields) == [{"error": error}]


async def test_more_than_half_an_hour_is_refused(engines: list[FakeEngine]) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1801 * 1000, np.int16), 1000, format="FLAC")
    sound = base64.b64encode(silence.getvalue()).decode()
    assert await run(engines, type="transcribe", audio_base64=sound) == [
        {"error": "audio_base64: audio is longer than 1800 s (PAYLOAD_TOO_LARGE)"}
    ]


async def test_only_a_few_recordings_are_held_at_a_time() -> None:
    recordings, source = Recordings(), AudioSource("audio_base64", recording(0.1))
    held, most = 0, 0

    async def hold() -> None:
        nonlocal held, most
        async with recordings.opened(source.field, partial(read_source, source)):
            held += 1
            most = max(most, held)
            await asyncio.sleep(0.02)
            held -= 1

    await asyncio.gather(*(hold() for _ in range(3 * RECORDINGS_AT_ONCE)))
    assert most == RECORDINGS_AT_ONCE


def test_words_of_later_windows_wait_for_earlier_ones() -> None:
    said: list[str] = []
    script = Script(said.append)
    script.write(1, "two")
    script.write(0, "one")
    script.finish(1)
    script.write(0, ".")
    assert said == ["one", "."]
    script.finish(0)
    script.write(2, " three")
    assert said == ["one", ".", " two", " three"]
    assert script.text == "one. two three"


@given(seconds=st.floats(0, 200), seed=st.integers(0, 9))
def test_windows_are_at_most_30_s_and_joined_are_the_recording(seconds: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=int(seconds * 1600)).astype(np.float32)
    samples = np.repeat(samples, 10)
    windows = list(cut_at_pauses(samples))
    assert np.array_equal(np.concatenate(windows), samples)
    assert all(len(window) <= 30 * RATE for window in windows)
    assert all(len(window) >= 25 * RATE for window in windows[:-1])


def test_a_cut_falls_into_a_pause() -> None:
    samples = np.ones(40 * RATE, np.float32)
    samples[int(27.0 * RATE) : int(27.3 * RATE)] = 0.0
    first, _ = cut_at_pauses(samples)
    assert 27.0 < len(first) / RATE < 27.3
