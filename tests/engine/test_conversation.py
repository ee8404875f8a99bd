import numpy as np
import pytest

from voxtral_worker.engine.conversation import (
    WINDOW_SAMPLES,
    AssistantTurn,
    Audio,
    Conversation,
    Exchange,
    UserTurn,
    audio_in,
    windows_of,
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


def test_samples_are_let_go_once_they_are_encoded() -> None:
    audio = sound(WINDOW_SAMPLES + 1)
    audio.let_go_of_samples()
    assert len(audio.samples) == 0
    assert audio.windows == 2


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


def test_sounds_are_told_apart_when_their_samples_are_gone() -> None:
    quiet, loud = Audio(np.zeros(100, np.float32)), Audio(np.ones(100, np.float32))
    again = Audio(np.ones(100, np.float32))
    for audio in (quiet, loud):
        audio.let_go_of_samples()
    assert len({quiet.digest, loud.digest}) == 2
    assert loud.digest == again.digest
