import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import pytest
import silero_vad
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.gate import Changeable, Gate
from tests.support.sounds import clips, silence
from voxtral_worker.audio.frames import SAMPLE_RATE
from voxtral_worker.errors import EngineFailure
from voxtral_worker.turns import vad as vads
from voxtral_worker.turns.detector import TurnDetector
from voxtral_worker.turns.events import TurnEnded, TurnEvent
from voxtral_worker.turns.network import SpeechNetwork
from voxtral_worker.turns.stream_memory import StreamMemory
from voxtral_worker.turns.vad import MAX_FRAMES, MOST_AT_ONCE, Vad

Samples = NDArray[np.float32]


@pytest.fixture
def changeable() -> "Changeable[[Samples, Samples], tuple[Samples, Samples]]":
    return Changeable(SpeechNetwork())


@pytest.fixture
async def vad(changeable: Changeable[Any, Any]) -> AsyncIterator[Vad]:
    vad = Vad(changeable)
    vad.start()
    yield vad
    vad.stop()
    assert not vad.is_alive


def frames(count: int, seed: int) -> NDArray[np.float32]:
    """Noise whose loudness comes and goes, float32 [count, 512]."""
    random = np.random.default_rng(seed)
    loudness = random.uniform(0, 0.5, (count, 1))
    return (random.normal(0, 1, (count, 512)) * loudness).clip(-1, 1).astype(np.float32)


def alone(sound: NDArray[np.float32]) -> list[float]:
    """What silero-VAD says of one stream by itself."""
    model = silero_vad.load_silero_vad(onnx=True)
    return [float(model(torch.from_numpy(frame), SAMPLE_RATE)) for frame in sound]


async def ask(vad: Vad, key: str, count: int) -> "asyncio.Task[NDArray[np.float32]]":
    """A call that has reached the VAD and waits there."""
    call = asyncio.create_task(vad.listen(key, frames(count, 1)))
    await asyncio.sleep(0)
    assert not call.done()
    return call


async def is_refused(vad: Vad) -> bool:
    """Whether a new session is not let in any more."""
    call = asyncio.create_task(vad.listen("new", frames(1, 1)))
    await asyncio.sleep(0)
    vad.forget("new")
    (ended,) = await asyncio.gather(call, return_exceptions=True)
    return isinstance(ended, EngineFailure)


async def tick_of(gate: Gate[Any, Any]) -> None:
    entered = await asyncio.to_thread(gate.entered.acquire, timeout=30)
    assert entered


def broken(inputs: Samples, states: Samples) -> tuple[Samples, Samples]:
    raise ValueError("no such weights")


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_session_hears_what_it_would_hear_alone_while_others_join_and_leave(
    cuts: list[list[int]],
) -> None:
    async def talk(vad: Vad, seed: int, pieces: list[int]) -> None:
        sound = frames(sum(pieces), seed)
        heard: list[float] = []
        for piece in np.split(sound, np.cumsum(pieces)[:-1]):
            probabilities = await vad.listen(str(seed), piece)
            assert probabilities.dtype == np.float32
            heard += probabilities.tolist()
        vad.forget(str(seed))
        assert np.allclose(heard, alone(sound), rtol=0, atol=1e-4)

    async def everyone() -> None:
        vad = Vad()
        vad.start()
        await asyncio.gather(*[talk(vad, seed, pieces) for seed, pieces in enumerate(cuts)])
        vad.stop()

    asyncio.run(everyone())


async def test_every_recording_has_the_turns_that_silero_finds_in_it(vad: Vad) -> None:
    async def turns_of(words: str, chunk: int) -> tuple[Samples, list[TurnEvent]]:
        heard = [
            await vad.listen(words, sounds[words][start : start + chunk])
            for start in range(0, len(sounds[words]), chunk)
        ]
        probabilities = np.concatenate(heard)
        return probabilities, events_of(sounds[words], probabilities.tolist())

    room = silence(20)
    sounds = {
        words: np.frombuffer(room + clip + room, "<i2").reshape(-1, 512).astype(np.float32)
        / np.float32(32768)
        for words, clip in clips().items()
    }
    # All at once, in chunks of 1 to 12 frames.
    found = await asyncio.gather(*[turns_of(words, n + 1) for n, words in enumerate(sounds)])
    assert len(found) == 12
    for sound, (probabilities, turns) in zip(sounds.values(), found, strict=True):
        expected = alone(sound)
        assert np.allclose(probabilities, expected, rtol=0, atol=1e-4)
        assert turns == events_of(sound, expected)
        assert isinstance(turns[-1], TurnEnded)


def events_of(sound: Samples, probabilities: list[float]) -> list[TurnEvent]:
    detector = TurnDetector()
    energies = np.square(sound).sum(axis=1).tolist()
    heard = zip(probabilities, energies, strict=True)
    return [event for one, energy in heard for event in detector.hear(one, energy)]


async def test_the_tick_is_one_batch_of_all_sessions(
    vad: Vad, changeable: Changeable[Any, Any]
) -> None:
    batches: list[int] = []
    real = changeable.function

    def counting(inputs: Samples, states: Samples) -> Any:
        batches.append(len(inputs))
        return real(inputs, states)

    gate = changeable.function = Gate(counting)
    first = await ask(vad, "a", MOST_AT_ONCE + 2)
    await tick_of(gate)
    second = await ask(vad, "b", 2)
    gate.open.release(3)
    await asyncio.gather(first, second)
    assert batches == [1, 2]


async def test_a_forgotten_session_starts_anew(vad: Vad) -> None:
    sound = frames(5, 5)
    first = await vad.listen("a", sound)
    assert not np.allclose(await vad.listen("a", sound), first, atol=1e-4)
    vad.forget("a")
    assert np.array_equal(await vad.listen("a", sound), first)
    vad.forget("nobody")


async def test_a_row_that_is_let_go_in_a_tick_keeps_nothing_of_it(
    vad: Vad, changeable: Changeable[Any, Any]
) -> None:
    sound = frames(4, 6)
    expected = alone(sound)
    gate = changeable.function = Gate(changeable.function)
    gone = await ask(vad, "a", 1)
    await tick_of(gate)
    vad.forget("a")
    # The tick that runs now knows the row still; the next one may give it to another one.
    gate.open.release(1000)
    heard = await vad.listen("b", sound)
    assert np.allclose(heard, expected, rtol=0, atol=1e-4)
    (ended,) = await asyncio.gather(gone, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)


async def test_rows_are_given_again() -> None:
    memory = StreamMemory()
    vad = Vad(memory=memory)
    vad.start()
    for number in range(100):
        await vad.listen(str(number), frames(1, number))
        vad.forget(str(number))
    assert len(memory.contexts) == 16
    vad.stop()


async def test_the_vad_s_own_thread_computes_alone_and_others_do_not() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []
    real = SpeechNetwork()

    def counting(inputs: Samples, states: Samples) -> tuple[Samples, Samples]:
        seen.append(torch.get_num_threads())
        return real(inputs, states)

    vad = Vad(counting)
    vad.start()
    await vad.listen("a", frames(1, 1))
    seen.append(await asyncio.to_thread(torch.get_num_threads))
    vad.stop()
    torch.set_num_threads(before)
    assert seen == [1, 2]


async def test_an_exception_in_a_tick_reaches_everyone_who_waits(
    vad: Vad, changeable: Changeable[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    real = changeable.function
    gate = changeable.function = Gate(real)
    first = await ask(vad, "a", 3)
    await tick_of(gate)
    gate.function = broken
    others = [await ask(vad, key, 3) for key in "bc"]
    with caplog.at_level(logging.CRITICAL, "voxtral_worker"):
        gate.open.release(100)
        answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert all(isinstance(answer, EngineFailure) for answer in answers)
    assert not any("no such weights" in str(answer) for answer in answers)

    changeable.function = real
    assert len(await vad.listen("a", frames(2, 1))) == 2, "the next tick is a new chance"


async def test_stopping_ends_everyone_who_waits() -> None:
    gate = Gate(SpeechNetwork())
    vad = Vad(gate)
    vad.start()
    first = await ask(vad, "a", 50)
    await tick_of(gate)
    second = await ask(vad, "b", 1)
    stopping = asyncio.create_task(asyncio.to_thread(vad.stop))
    async with asyncio.timeout(30):
        while not await is_refused(vad):
            await asyncio.sleep(0.001)
    gate.open.release(1)
    await stopping
    for task in (first, second):
        with pytest.raises(EngineFailure):
            await task
    with pytest.raises(EngineFailure):
        await vad.listen("a", frames(1, 1))


async def test_what_does_not_run_refuses_to_listen() -> None:
    vad = Vad()
    with pytest.raises(EngineFailure):
        await vad.listen("a", frames(1, 1))
    vad.stop()


async def test_who_does_not_wait_any_more_holds_nobody_up(
    vad: Vad, changeable: Changeable[Any, Any]
) -> None:
    gate = changeable.function = Gate(changeable.function)
    gone, forgotten = await ask(vad, "a", 30), await ask(vad, "b", 30)
    await tick_of(gate)
    gate.open.release(1)
    await tick_of(gate)
    # Both are in the tick that runs now.
    gone.cancel()
    vad.forget("b")
    gate.open.release(1000)
    answers = await asyncio.gather(gone, forgotten, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert len(await vad.listen("c", frames(2, 1))) == 2
    # Neither of them is taken for one who still waits.
    assert len(await vad.listen("a", frames(1, 1))) == 1
    assert len(await vad.listen("b", frames(1, 1))) == 1


async def test_one_session_is_listened_to_by_one_call_at_a_time(
    vad: Vad, changeable: Changeable[Any, Any]
) -> None:
    gate = changeable.function = Gate(changeable.function)
    first = await ask(vad, "a", 1)
    await tick_of(gate)
    with pytest.raises(RuntimeError, match="two calls"):
        await vad.listen("a", frames(1, 1))
    gate.open.release(1)
    assert len(await first) == 1


@pytest.mark.parametrize("shape", [(1, 511), (3,), (1, 512, 1), (MAX_FRAMES + 1, 512)])
async def test_frames_of_another_shape_are_refused(vad: Vad, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        await vad.listen("a", np.zeros(shape, np.float32))


async def test_no_frames_have_no_probabilities(vad: Vad) -> None:
    assert (await vad.listen("a", np.zeros((0, 512), np.float32))).shape == (0,)


async def test_loading_the_vad_leaves_the_threads_of_the_process_alone() -> None:
    before = torch.get_num_threads()
    Vad()
    assert torch.get_num_threads() == before


async def test_a_vad_that_is_lost_says_so_and_answers_everybody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lost(*_: object) -> tuple[Samples, Samples]:
        raise SystemExit("no way on")

    vad = Vad(lost)
    vad.start()
    async with asyncio.timeout(30):
        with pytest.raises(EngineFailure, match="lost"):
            await vad.listen("a", frames(2, 1))
        while vad.is_alive:
            await asyncio.sleep(0.001)
    assert "vad: lost" in caplog.text
    with pytest.raises(EngineFailure):
        await vad.listen("b", frames(1, 1))


async def test_what_fails_between_two_ticks_leaves_the_vad_alive() -> None:
    memory = StreamMemory()
    rows_of = memory.rows_of
    failures: list[int] = []

    def fails_once(keys: Iterable[str]) -> list[int]:
        if not failures:
            failures.append(1)
            raise MemoryError
        return rows_of(keys)

    memory.rows_of = fails_once  # type: ignore[method-assign]
    vad = Vad(memory=memory)
    vad.start()
    async with asyncio.timeout(30):
        with pytest.raises(EngineFailure, match="MemoryError"):
            await vad.listen("a", frames(1, 1))
        assert len(await vad.listen("a", frames(1, 1))) == 1
    assert vad.is_alive
    vad.stop()


async def test_a_vad_that_hangs_is_seen_and_keeps_nobody_waiting(
    vad: Vad, changeable: Changeable[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = changeable.function = Gate(changeable.function)
    monkeypatch.setattr(vads, "HUNG_S", 0.2)
    assert vad.is_alive
    async with asyncio.timeout(30):
        with pytest.raises(EngineFailure, match="does not answer"):
            await vad.listen("a", frames(1, 1))
        # The tick began a little later than the wait for it.
        while vad.is_alive:
            await asyncio.sleep(0.01)
    monkeypatch.undo()
    gate.open.release(1000)
    assert len(await vad.listen("a", frames(1, 1))) == 1
    assert vad.is_alive
