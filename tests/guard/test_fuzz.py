"""The short form of `make bench-load`'s part `fuzz`: others do not notice, every answer is good."""

import asyncio
import logging
import random
from collections.abc import Callable

import pytest

from bench.load_fuzz import Fuzzed, fuzz
from tests.docs.test_pages import message_types, statuses
from tests.support.fuzz_messages import SEEDS, frames, mutations
from tests.support.message_schema import problem_with
from tests.support.running_server import RunningServer
from tests.support.talker import talk
from voxtral_worker.errors import WorkerError
from voxtral_worker.server.native.messages import parse
from voxtral_worker.server.native.sent import SCHEMAS

Start = Callable[..., RunningServer]
MESSAGES = 500


def tasks(server: RunningServer) -> int:
    async def count() -> int:
        return len(asyncio.all_tasks())

    return server.thread.call(count())


async def until_alone(server: RunningServer, before: int) -> None:
    async with asyncio.timeout(45):
        while await asyncio.to_thread(tasks, server) > before:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("line", ["audio", "control"])
async def test_mutated_messages_disturb_nobody_else(
    start_server: Start, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    before = await asyncio.to_thread(tasks, server)
    tally = Fuzzed()
    async with talk(server) as other:
        await other.status("connected")
        async with asyncio.timeout(90):
            await fuzz(server.url, line, MESSAGES, random.Random(20), tally)
        await other.text("still there?")
        answer = await other.until("text_response")
    assert tally.problems == []
    assert tally.sent == MESSAGES
    assert tally.received["INVALID_REQUEST"] > MESSAGES / 10
    assert tally.received["text_response"] > 0
    assert answer["text"] == "You said so."
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]
    async with asyncio.timeout(45):
        await asyncio.to_thread(server.thread.drain, 1.0)
    await until_alone(server, before)


async def test_what_goes_wrong_while_answers_are_read_is_not_swallowed(
    start_server: Start,
) -> None:
    class Deaf(Fuzzed):
        def hear(self, raw: str | bytes) -> dict[str, object]:
            raise ValueError("not JSON")

    with pytest.raises(ValueError, match="not JSON"):
        await fuzz(start_server().url, "audio", 5, random.Random(1), Deaf())


def test_every_field_of_every_message_is_mutated_and_most_of_it_is_refused() -> None:
    def is_refused(text: str) -> bool:
        try:
            parse(text)
        except WorkerError:
            return True
        return False

    written = mutations()
    assert len(written) > 1000
    assert sum(map(is_refused, written)) > len(written) / 4
    assert all(any(str(seed["type"]) in text for text in written) for seed in SEEDS)
    kinds = {type(frame.data) for frame in frames(2000, random.Random(3))}
    assert kinds == {str, bytes}


def test_the_schema_knows_every_message_and_status() -> None:
    assert {kind for kind, _ in SCHEMAS} == message_types()
    assert {status for _, status in SCHEMAS if status is not None} == statuses()


@pytest.mark.parametrize(
    "message",
    [
        None,
        {"type": "song", "timestamp": 1.0},
        {"type": "status", "status": "sung", "timestamp": 1.0},
        {"type": "status", "status": "draining"},
        {"type": "status", "status": "draining", "timestamp": 1.0, "seq": 3},
        {"type": "text_delta", "text": "a", "turn_id": 1, "timestamp": 1.0, "seq": 3},
        {"type": "error", "error": "no", "code": "WHATEVER", "timestamp": 1.0},
        {"type": "error", "error": "no", "code": "NOT_READY", "timestamp": 1.0, "turn_id": "1"},
    ],
)
def test_a_message_that_is_not_of_the_contract_is_found(message: object) -> None:
    assert problem_with(message) is not None
