"""What becomes of a recording."""

import asyncio
import base64
import contextlib
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.job_fakes import Say, SteppingEngine, echo
from voxtral_worker.audio.recordings import RECORDINGS_AT_ONCE, Recordings, Samples
from voxtral_worker.audio.stretches import Stretch
from voxtral_worker.engine.conversation import Audio, Conversation
from voxtral_worker.engine.transcript import WINDOWS_AT_ONCE, Script
from voxtral_worker.errors import AtCapacity, TooLarge
from voxtral_worker.jobs.audio import read_source
from voxtral_worker.jobs.handler import JobHandler
from voxtral_worker.jobs.schema import AudioSource
from voxtral_worker.settings import Settings
from voxtral_worker.turns.recording import FindSpeech, take_all_as_speech

RATE = 16_000


def recording(seconds: float, rate: int = RATE, container: str = "WAV") -> str:
    samples = np.random.default_rng(1).uniform(-0.1, 0.1, int(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def engines() -> Iterator[list[SteppingEngine]]:
    started: list[SteppingEngine] = []
    yield started
    for engine in started:
        engine.stop()


async def run(
    engines: list[SteppingEngine],
    say: Say = echo,
    find_speech: FindSpeech = take_all_as_speech,
    **fields: Any,
) -> list[dict[str, Any]]:
    engines.append(SteppingEngine(say, step_s=0.005))
    handler = JobHandler(engines[-1], dict, Settings(), find_speech=find_speech)
    return [piece async for piece in handler.handle({"id": "j1", "input": fields})]


async def test_a_short_recording_is_one_greedy_request(engines: list[SteppingEngine]) -> None:
    pieces = await run(engines, type="transcribe", audio_base64=recording(1), language="en")
    assert [piece["text"] for piece in pieces] == ["window 16000"]
    request = engines[0].requests[0]
    assert request.conversation.transcribe
    assert request.conversation.language == "en"
    assert request.sampling.temperature == 0.0
    assert request.urgency == 2


async def test_any_rate_and_container_becomes_16_khz(engines: list[SteppingEngine]) -> None:
    for container in ("WAV", "FLAC", "OGG", "MP3"):
        sound = recording(1, 44_100, container)
        pieces = await run(engines, type="transcribe", audio_base64=sound)
        samples = int(pieces[0]["text"].split()[1])
        assert abs(samples - RATE) < 2_000, container


async def test_a_long_recording_is_written_down_a_few_windows_at_a_time_and_in_order(
    engines: list[SteppingEngine],
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


async def test_what_holds_no_speech_adds_no_words_and_is_not_asked_about(
    engines: list[SteppingEngine],
) -> None:
    async def find(samples: Samples) -> tuple[Stretch, ...]:
        found.append(len(samples))
        return places

    found: list[int] = []
    fields: dict[str, Any] = {"type": "transcribe", "audio_base64": recording(70), "stream": True}
    places: tuple[Stretch, ...] = ()
    assert await run(engines, find_speech=find, **fields) == [
        {
            "index": 0,
            "text": "",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0},
        }
    ]
    assert engines[0].requests == []
    places = (Stretch(RATE, 2 * RATE), Stretch(3 * RATE, 4 * RATE), Stretch(60 * RATE, 61 * RATE))
    *_, last = await run(engines, find_speech=find, **fields)
    # Two that are close to each other are one window.
    assert last["text"] == "window 48000 window 16000"
    assert found == [70 * RATE] * 2


@pytest.mark.parametrize(
    ("first", "asked", "told"),
    [
        ("Goedemorgen allemaal, welkom bij de vergadering van vandaag.", {}, [None, "nl", "nl"]),
        ("Goedemorgen allemaal, welkom bij ons.", {"language": "de"}, ["de", "de", "de"]),
        ("Ich weiß es nicht.", {}, [None, None, "de"]),
        # Too short to detect it, and a language that the model was not trained for.
        ("Hallo!", {}, [None, None, None]),
        ("Dzień dobry wszystkim, witam na dzisiejszym spotkaniu.", {}, [None, None, None]),
    ],
)
async def test_the_language_of_the_first_window_is_that_of_the_others(
    engines: list[SteppingEngine], first: str, asked: dict[str, Any], told: list[str | None]
) -> None:
    sound = recording(80)
    *_, last = await run(engines, lambda _: [first], type="transcribe", audio_base64=sound, **asked)
    assert last["text"] == " ".join([first] * 3)
    assert [request.conversation.language for request in engines[0].requests] == told


async def test_a_question_about_a_recording_comes_after_all_of_it(
    engines: list[SteppingEngine],
) -> None:
    await run(engines, type="audio", audio_base64=recording(70), text="who?", system_prompt="x")
    (request,) = engines[0].requests
    audio, question = request.conversation.user.parts
    assert isinstance(audio, Audio)
    assert (audio.windows, question) == (3, "who?")
    assert request.conversation.system_prompt == "x"
    assert not request.conversation.transcribe


async def test_a_recording_that_does_not_fit_the_context_fails_with_its_field(
    engines: list[SteppingEngine],
) -> None:
    pieces = await run(
        engines, lambda _: TooLarge("too long"), type="audio", audio_base64=recording(1)
    )
    assert pieces == [{"error": "audio_base64: too long (PAYLOAD_TOO_LARGE)"}]


async def test_base64_may_come_in_lines_or_as_a_data_address(engines: list[SteppingEngine]) -> None:
    sound = recording(1)
    lines = "\n".join(sound[start : start + 76] for start in range(0, len(sound), 76))
    address = "data:audio/wav;base64," + sound
    for field, value in (
        ("audio_base64", lines),
        ("audio_base64", address),
        ("audio_url", address),
        ("audio_url", address.replace("data", "DATA").rstrip("=")),
    ):
        given: dict[str, Any] = {field: value}
        pieces = await run(engines, type="transcribe", **given)
        assert pieces[0]["text"] == "window 16000"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (
            {"audio_base64": "*"},
            "audio_base64: this is not base64: it has '*' in it (INVALID_REQUEST)",
        ),
        (
            {"audio_base64": "AAAA"},
            "audio_base64: audio cannot be decoded: it is damaged, or not a sound file of a "
            "supported kind (AUDIO_FORMAT_ERROR)",
        ),
        (
            {"audio_url": "http://127.0.0.1:1/a.wav"},
            "audio_url: the address is not a public one, or cannot be resolved (INVALID_REQUEST)",
        ),
    ],
)
async def test_a_recording_that_cannot_be_used_fails_with_its_field(
    engines: list[SteppingEngine], fields: dict[str, Any], error: str
) -> None:
    assert await run(engines, type="transcribe", **fields) == [{"error": error}]


async def test_more_than_half_an_hour_is_refused(engines: list[SteppingEngine]) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1801 * 1000, np.int16), 1000, format="FLAC")
    sound = base64.b64encode(silence.getvalue()).decode()
    assert await run(engines, type="transcribe", audio_base64=sound) == [
        {"error": "audio_base64: audio is longer than 1800 s (PAYLOAD_TOO_LARGE)"}
    ]


async def test_only_a_few_recordings_are_held_at_a_time() -> None:
    recordings, source = Recordings(), AudioSource("audio_base64", recording(0.1))
    held, most = 0, 0
    are_all_taken = asyncio.Event()

    async def hold() -> None:
        nonlocal held, most
        async with recordings.opened(source.field, partial(read_source, source)):
            held += 1
            most = max(most, held)
            if held == RECORDINGS_AT_ONCE:
                are_all_taken.set()
            await are_all_taken.wait()
            await asyncio.sleep(0.02)
            held -= 1

    await asyncio.gather(*(hold() for _ in range(3 * RECORDINGS_AT_ONCE)))
    assert most == RECORDINGS_AT_ONCE


async def test_a_wait_for_a_place_has_an_end() -> None:
    recordings, source = Recordings(place_timeout_s=0.05), AudioSource("audio_base64", recording(1))
    async with contextlib.AsyncExitStack() as held:
        for _ in range(RECORDINGS_AT_ONCE):
            opened = recordings.opened(source.field, partial(read_source, source))
            await held.enter_async_context(opened)
        with pytest.raises(AtCapacity):
            async with recordings.opened(source.field, partial(read_source, source)):
                pass
    async with recordings.opened(source.field, partial(read_source, source)) as samples:
        assert len(samples) == RATE


async def test_only_so_many_wait_for_a_place() -> None:
    recordings, source = Recordings(most_waiting=1), AudioSource("audio_base64", recording(1))
    async with contextlib.AsyncExitStack() as held:
        for _ in range(RECORDINGS_AT_ONCE):
            opened = recordings.opened(source.field, partial(read_source, source))
            await held.enter_async_context(opened)
        waits = asyncio.create_task(
            held.enter_async_context(recordings.opened("x", partial(read_source, source)))
        )
        await asyncio.sleep(0)
        with pytest.raises(AtCapacity):
            async with recordings.opened(source.field, partial(read_source, source)):
                pass
        waits.cancel()
        await asyncio.wait([waits])


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
