"""Where a whole recording holds speech."""

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.sounds import clips, silence
from tests.turns.test_vad import alone
from voxtral_worker.audio.frames import FRAME_SAMPLES
from voxtral_worker.audio.stretches import Stretch
from voxtral_worker.errors import EngineFailure
from voxtral_worker.turns.recording import (
    LEAST_FRAMES,
    WINDOW_FRAMES,
    find_speech,
    joined,
    stretches_of,
    take_all_as_speech,
)
from voxtral_worker.turns.vad import Vad

Samples = NDArray[np.float32]
RATE = 16_000
NEVER = threading.Event()


def samples_of(pcm: bytes) -> Samples:
    samples: Samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
    return samples


def quiet(seconds: float) -> Samples:
    return samples_of(silence(int(seconds * RATE / FRAME_SAMPLES)))


SENTENCES = [samples_of(clip) for clip in clips().values()]


@pytest.fixture(scope="module")
def ears() -> Iterator[Vad]:
    """A VAD whose thread does not run: a recording needs none."""
    vad = Vad()
    yield vad
    vad.stop()


def find(ears: Vad, samples: Samples) -> tuple[Stretch, ...]:
    return asyncio.run(find_speech(ears.survey, samples))


def test_a_short_recording_has_the_probabilities_of_the_network_alone(ears: Vad) -> None:
    sound = np.concatenate([quiet(0.5), SENTENCES[0], quiet(0.5)])[: -FRAME_SAMPLES // 2]
    last = np.pad(sound, (0, -len(sound) % FRAME_SAMPLES))
    found = ears.survey(sound, NEVER)
    assert found.tolist() == pytest.approx(alone(last.reshape(-1, FRAME_SAMPLES)), abs=1e-4)


def test_a_long_recording_is_heard_as_if_from_its_beginning(ears: Vad) -> None:
    parts = [part for clip in SENTENCES * 3 for part in (clip, quiet(0.7))]
    sound = np.concatenate(parts)
    frames = sound[: len(sound) - len(sound) % FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    assert len(frames) > 4 * LEAST_FRAMES
    found = ears.survey(frames.reshape(-1), NEVER)
    one_by_one = np.array(alone(frames))
    assert found.shape == one_by_one.shape
    # The very beginning is exact, and elsewhere two seconds of listening ahead are enough.
    assert found[:LEAST_FRAMES] == pytest.approx(one_by_one[:LEAST_FRAMES], abs=1e-4)
    assert ((found > 0.5) == (one_by_one > 0.5)).mean() > 0.99
    stretches = np.array(stretches_of(frames.reshape(-1), found))
    exact = np.array(stretches_of(frames.reshape(-1), one_by_one.astype(np.float32)))
    assert stretches.shape == exact.shape
    assert abs(stretches - exact).max() <= 3 * FRAME_SAMPLES


def test_every_sentence_lies_in_one_stretch_and_silence_in_none(ears: Vad) -> None:
    pieces, places, at = [quiet(40)], [], len(quiet(40))
    for clip in SENTENCES[:5]:
        places.append((at, at + len(clip)))
        pieces += [clip, quiet(3)]
        at += len(clip) + len(quiet(3))
    found = find(ears, np.concatenate([*pieces, quiet(40)]))
    assert len(found) == len(places)
    for stretch, (start, end) in zip(found, places, strict=True):
        assert start - 0.4 * RATE < stretch.start < start + 0.4 * RATE
        assert end - 0.4 * RATE < stretch.end < end + 0.4 * RATE


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01, 0.003])
def test_a_quiet_recording_is_heard_as_a_loud_one(ears: Vad, gain: float) -> None:
    sound = np.concatenate([np.zeros(RATE, np.float32), SENTENCES[0], np.zeros(RATE, np.float32)])
    (stretch,) = find(ears, sound * np.float32(gain))
    assert RATE * 0.6 < stretch.start < RATE * 1.4


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 30 * RATE])
def test_silence_holds_no_speech(ears: Vad, samples: int) -> None:
    assert find(ears, np.zeros(samples, np.float32)) == ()
    noise = np.random.default_rng(1).normal(0, 1e-3, samples).astype(np.float32)
    assert find(ears, noise) == ()


def test_a_network_that_fails_is_no_silence() -> None:
    def broken(_: Samples, __: Samples) -> tuple[Samples, Samples]:
        raise ZeroDivisionError

    with pytest.raises(EngineFailure, match="ZeroDivisionError"):
        find(Vad(broken), SENTENCES[0])


async def test_who_no_longer_waits_is_no_longer_listened_for(ears: Vad) -> None:
    heard = threading.Event()
    over = threading.Event()

    def survey(samples: Samples, is_over: threading.Event) -> Samples:
        heard.set()
        found = ears.survey(samples, is_over)
        over.set()
        return found

    task = asyncio.create_task(find_speech(survey, np.zeros(30 * 60 * RATE, np.float32)))
    assert await asyncio.to_thread(heard.wait, 30)
    began_s = time.thread_time()
    # The loop continues at the same time.
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert await asyncio.to_thread(over.wait, 30)
    assert time.thread_time() - began_s < 1


sounds = st.lists(st.tuples(st.booleans(), st.floats(0.1, 45)), max_size=12)


@given(sounds, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_stretches_are_at_most_30_s_in_order_and_hold_all_speech(
    parts: list[tuple[bool, float]], seed: int
) -> None:
    frames = [(is_speech, round(seconds * RATE / FRAME_SAMPLES)) for is_speech, seconds in parts]
    probabilities: Samples = np.concatenate(
        [np.zeros(0), *[np.full(count, 0.9 * is_speech) for is_speech, count in frames]]
    ).astype(np.float32)
    noise = np.random.default_rng(seed).normal(size=len(probabilities) * FRAME_SAMPLES)
    samples: Samples = noise[: len(noise) - 100].astype(np.float32)
    probabilities = probabilities[: -(-len(samples) // FRAME_SAMPLES)]
    found = stretches_of(samples, probabilities)
    for windows in (found, joined(found)):
        covered = np.zeros(len(samples), bool)
        end = 0
        for window in windows:
            assert end <= window.start < window.end <= len(samples)
            assert window.end - window.start <= 30 * RATE
            covered[window.start : window.end] = True
            end = window.end
        spoken = np.repeat(probabilities > 0.5, FRAME_SAMPLES)[: len(samples)]
        # Fewer than four frames are a click.
        runs = np.flatnonzero(np.diff(np.concatenate([[0], spoken, [0]])))
        for start, stop in zip(runs[::2], runs[1::2], strict=True):
            if stop - start >= 4 * FRAME_SAMPLES:
                assert covered[start:stop].all()


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    samples = np.ones(40 * RATE, np.float32)
    samples[int(27.0 * RATE) : int(27.3 * RATE)] = 0.1
    first, second = asyncio.run(take_all_as_speech(samples))
    assert 27.0 < first.end / RATE < 27.3
    assert (first.start, second.start, second.end) == (0, first.end, len(samples))


def test_stretches_are_joined_over_short_pauses_up_to_30_s() -> None:
    second = RATE
    near = [Stretch(0, 5 * second), Stretch(6 * second, 20 * second)]
    far = Stretch(23 * second, 24 * second)
    assert joined([*near, far]) == (Stretch(0, 20 * second), far)
    long = Stretch(21 * second, 21 * second + WINDOW_FRAMES * FRAME_SAMPLES)
    assert joined([*near, long]) == (Stretch(0, 20 * second), long)
    assert joined([]) == ()
