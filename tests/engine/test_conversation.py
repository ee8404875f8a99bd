import numpy as np
import pytest

from tests.support.windows import windows_of
from voxtral_worker.engine.conversation import (
    WINDOW_SAMPLES,
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
    audio_in,
)


def sound(samples: int) -> Audio:
    return Audio(np.zeros(samples, np.float32))


@pytest.mark.parametrize(
    ("samples", "windows"),
    [(0, 1), (1, 1), (WINDOW_SAMPLES, 1), (WINDOW_SAMPLES + 1, 2), (3 * WINDOW_SAMPLES, 3)],
)
def test_audio_takes_as_many_windows_as_it_begins(samples: int, windows: int) -> None:
    assert sound(samples).windows == windows


def test_no_two_pieces_of_audio_have_the_same_id() -> None:
    assert len({sound(1).audio_id for _ in range(10)}) == 10


@pytest.mark.parametrize("samples", [0, 1, WINDOW_SAMPLES, 2 * WINDOW_SAMPLES + 5])
def test_windows_joined_are_the_whole_audio(samples: int) -> None:
    whole = np.arange(samples, dtype=np.float32)
    pieces = windows_of(whole)
    assert all(piece.windows == 1 for piece in pieces)
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), whole)


def test_audio_of_a_conversation_comes_in_the_order_of_the_prompt() -> None:
    first, second, third = sound(1), sound(1), sound(1)
    exchange = Exchange(UserTurn((first, "and", second)), AssistantTurn((1, 2)))
    conversation = Conversation(UserTurn(("so", third)), (exchange,))
    assert list(audio_in(conversation)) == [first, second, third]


def test_sound_of_16_bits_takes_half_of_the_memory_and_stays_the_same() -> None:
    steps = np.random.default_rng(1).integers(-32_768, 32_768, 2 * WINDOW_SAMPLES + 5)
    steps[:2] = -32_768, 32_767
    samples = (steps / 32_768).astype(np.float32)
    audio = Audio(samples)
    before = audio.digest
    assert audio.nbytes == 4 * len(samples)
    for _ in range(2):
        audio.compact()
        assert audio.nbytes == 2 * len(samples)
        assert audio.samples.dtype == np.float32
        assert audio.samples.tobytes() == samples.tobytes()
    assert Audio(audio.samples).digest == before


@pytest.mark.parametrize("odd", [0.1, 1.0, -1.5, 1 / 65_536])
def test_sound_that_16_bits_cannot_hold_stays_as_it_is(odd: float) -> None:
    samples = np.zeros(WINDOW_SAMPLES + 5, np.float32)
    samples[-1] = odd
    audio = Audio(samples)
    audio.compact()
    assert audio.samples is samples


def test_no_sound_is_compact_too() -> None:
    audio = Audio(np.zeros(0, np.float32))
    audio.compact()
    assert (audio.nbytes, len(audio.samples), audio.windows) == (0, 0, 1)


def test_sounds_are_told_apart_by_their_samples() -> None:
    quiet, loud = Audio(np.zeros(100, np.float32)), Audio(np.ones(100, np.float32))
    again = Audio(np.ones(100, np.float32))
    assert len({quiet.digest, loud.digest}) == 2
    assert loud.digest == again.digest
