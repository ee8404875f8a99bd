"""The short form of the soak of spoken conversations, with a worker of its own."""

import asyncio

import psutil
import pytest

from bench.speech_soak import Listener, Soak, soak
from tests.support.workers import running_process


@pytest.mark.timeout(200)
def test_conversations_lose_no_piece_and_send_none_twice() -> None:
    with running_process({"SPEECH": "embedded", "RESPONSE_CACHE_SIZE": "0"}) as worker:
        url = worker.url.replace("http", "ws", 1)
        made = asyncio.run(soak(url, psutil.Process(worker.process.pid), 0.2, people=2))
    assert made.turns >= 2
    assert made.answered == made.turns
    assert made.pieces > made.turns
    assert (made.lost, made.doubled, made.wrong_length, made.frames_alone) == (0, 0, 0, 0)
    assert made.voice_mib[-1] > 0


def test_a_lost_a_doubled_and_a_short_piece_are_seen() -> None:
    made = Soak()
    listener = Listener(made)
    piece = {"turn_id": "1", "offset_ms": 0.0, "duration_ms": 400.0}
    for changes in ({}, {"offset_ms": 400.0}, {"offset_ms": 400.0}, {"offset_ms": 1200.0}):
        listener.take({**piece, **changes})
        listener.hear(bytes(19_200))
    listener.hear(bytes(2))
    listener.take({**piece, "offset_ms": 1600.0})
    listener.hear(bytes(19_198))
    assert (made.doubled, made.lost, made.frames_alone, made.wrong_length) == (1, 1, 1, 1)
    assert made.pieces == 5
