"""Short forms of what `make bench-load` measures: turns begun in the pause, sockets cut."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from bench.load_cuts import compare
from bench.load_sounds import SOUNDS, spoken, turns
from tests.support.running_server import RunningServer
from tests.support.talker import talk
from voxtral_worker.engine.request import Urgency

Start = Callable[..., RunningServer]
CHUNK = 2048


async def say(server: RunningServer, clip: bytes) -> dict[str, Any]:
    async with talk(server) as talker:
        for start in range(0, len(clip), CHUNK):
            await talker.send(clip[start : start + CHUNK])
        return await talker.until("text_response")


async def test_a_turn_is_begun_in_the_pause_and_answered_once(
    server: RunningServer, clip: bytes
) -> None:
    response = await say(server, clip)
    (request,) = server.engine.requests
    assert request.urgency is Urgency.SPECULATION
    assert response["text"] == "You said so."
    assert response["metrics"]["speculative"] is True
    metrics = response["metrics"]
    stages = metrics["queue_ms"] + metrics["encode_ms"] + metrics["prefill_ms"]
    assert abs(stages - metrics["first_token_ms"]) < 2


async def test_with_speculation_off_or_one_place_nothing_is_begun_early(
    start_server: Start, clip: bytes
) -> None:
    for settings in ({"speculation": False}, {"max_batch_size": 1}):
        server = start_server(**settings)
        response = await say(server, clip)
        (request,) = server.engine.requests
        assert request.urgency is Urgency.TURN
        assert response["metrics"]["speculative"] is False


@pytest.mark.parametrize("barge_in", [False, True])
async def test_a_client_whose_socket_is_cut_loses_nothing_and_gets_nothing_twice(
    server: RunningServer, barge_in: bool
) -> None:
    # Each turn is answered with the name of its sound: texts are equal only if sounds are.
    server.engine.names_sounds = True
    heard, is_right = await compare(server.url, 12, random.Random(3), barge_in=barge_in)
    assert heard.cuts == 12
    assert 0 < heard.cuts_in_a_frame < 12
    assert (heard.lost, heard.doubled, heard.audio_bytes_astray) == (0, 0, 0)
    assert is_right
    assert len(set(heard.texts())) == 3


async def test_no_turn_is_heard_where_nobody_speaks() -> None:
    for name, make in SOUNDS.items():
        assert await turns(make(10.0)) == 0, name


async def test_every_clean_sentence_is_heard_once() -> None:
    assert [await turns(sound) for sound in spoken()] == [1] * 12
