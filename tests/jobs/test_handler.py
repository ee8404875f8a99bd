"""What a job gets back, and what becomes of the engine's work when no one reads."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.support.job_fakes import Say, SteppingEngine, echo, endless, until
from voxtral_worker.errors import EngineFailure, TooLarge
from voxtral_worker.jobs.handler import STOPS_REMEMBERED, JobHandler
from voxtral_worker.settings import Settings

Piece = dict[str, Any]


@pytest.fixture
def engines() -> Iterator[list[SteppingEngine]]:
    started: list[SteppingEngine] = []
    yield started
    for engine in started:
        engine.stop()


@pytest.fixture
def make(engines: list[SteppingEngine]) -> Any:
    def make(
        say: Say = echo, *, step_s: float = 0.0, stall_s: float = 30.0, **settings: Any
    ) -> tuple[JobHandler, SteppingEngine]:
        engines.append(SteppingEngine(say, step_s))
        handler = JobHandler(
            engines[-1], lambda: {"status": "healthy"}, Settings(**settings), stall_s=stall_s
        )
        return handler, engines[-1]

    return make


def start(handler: JobHandler, **fields: Any) -> AsyncGenerator[Piece, None]:
    pieces = handler.handle({"id": "j1", "input": fields})
    assert isinstance(pieces, AsyncGenerator)
    return pieces


async def output(handler: JobHandler, **fields: Any) -> list[Piece]:
    return [piece async for piece in start(handler, **fields)]


def counted(kind: str, outcome: str) -> float:
    labels = {"type": kind, "outcome": outcome}
    return REGISTRY.get_sample_value("voxtral_jobs_total", labels) or 0.0


async def until_all_are_cancelled(engine: SteppingEngine) -> None:
    def are_cancelled() -> bool:
        return all(generation.is_cancelled for generation in engine.generations)

    await until(are_cancelled)


def test_the_sdk_takes_the_handler_for_an_async_generator_function(make: Any) -> None:
    handler, _ = make()
    assert inspect.isasyncgenfunction(handler.handle)


async def test_a_health_job_yields_what_the_server_says(make: Any) -> None:
    handler, _ = make()
    assert await output(handler, type="health") == [{"status": "healthy"}]


async def test_a_text_job_yields_one_answer(make: Any) -> None:
    handler, _ = make()
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 3}
    assert await output(handler, type="text", text="one two") == [
        {"index": 0, "text": "one two ", "finish_reason": "stop", "usage": usage}
    ]


async def test_texts_are_answered_side_by_side_and_yielded_in_order(make: Any) -> None:
    handler, engine = make(step_s=0.01)
    pieces = await output(handler, type="text", texts=["a b c d", "e", "f g"])
    assert [(piece["index"], piece["text"]) for piece in pieces] == [
        (0, "a b c d "),
        (1, "e "),
        (2, "f g "),
    ]
    assert engine.most_at_once == 3


async def test_no_more_texts_are_with_the_engine_than_it_can_serve_at_once(make: Any) -> None:
    handler, engine = make(step_s=0.005, max_batch_size=2)
    pieces = await output(handler, type="text", texts=["a b"] * 6)
    assert len(pieces) == 6
    assert engine.most_at_once <= 2


async def test_a_stream_carries_several_tokens_a_piece_and_joins_to_the_answer(make: Any) -> None:
    handler, _ = make(lambda _: ["word "] * 40, step_s=0.01)
    *deltas, last = await output(handler, type="text", text="x", stream=True)
    assert 1 < len(deltas) <= 10
    assert all(piece.keys() == {"index", "delta"} for piece in deltas)
    assert "".join(piece["delta"] for piece in deltas) == last["text"] == "word " * 40


async def test_without_stream_only_answers_are_yielded(make: Any) -> None:
    handler, _ = make()
    assert all("delta" not in piece for piece in await output(handler, type="text", text="a b c"))


async def test_bad_input_is_one_error_that_is_a_string(make: Any) -> None:
    handler, engine = make()
    before = counted("text", "refused")
    assert await output(handler, type="text", text="a", temperature=9) == [
        {"error": "temperature is 9, but must be a number from 0 to 2 (INVALID_REQUEST)"}
    ]
    assert counted("text", "refused") == before + 1
    assert engine.requests == []


async def test_a_job_without_an_input_is_told_so(make: Any) -> None:
    handler, _ = make()
    before = counted("unknown", "refused")
    pieces = [piece async for piece in handler.handle({"id": "j1"})]
    assert pieces == [{"error": "input is null, but must be an object (INVALID_REQUEST)"}]
    assert counted("unknown", "refused") == before + 1


async def test_a_text_longer_than_the_context_fails_the_job_with_its_field(make: Any) -> None:
    handler, engine = make(
        lambda said: TooLarge("too many tokens") if said.user.parts == ("long",) else ["ok"] * 999
    )
    assert await output(handler, type="text", texts=["short", "long"]) == [
        {"error": "texts[1]: too many tokens (PAYLOAD_TOO_LARGE)"}
    ]
    await until_all_are_cancelled(engine)


async def test_messages_that_lose_their_oldest_turns_fail_instead(make: Any) -> None:
    handler, engine = make()
    engine.trimmed = 2
    messages = [{"role": "user", "content": "a"}]
    assert await output(handler, type="text", messages=messages) == [
        {"error": "messages: the conversation is longer than the context (PAYLOAD_TOO_LARGE)"}
    ]


async def test_a_failure_is_a_sentence_without_the_workers_insides(make: Any) -> None:
    def broken() -> dict[str, Any]:
        raise AssertionError

    handler, _ = make()
    handler_with_broken_health = JobHandler(SteppingEngine(), broken, Settings())
    assert await output(handler_with_broken_health, type="health") == [
        {"error": "the worker failed on this job (PROCESSING_ERROR)"}
    ]


async def test_who_reads_the_stream_only_is_told_of_a_failure_too(make: Any) -> None:
    handler, _ = make(lambda _: EngineFailure("the model failed on this request"))
    assert await output(handler, type="text", text="a", stream=True) == [
        {"failed": "the model failed on this request", "code": "PROCESSING_ERROR"},
        {"error": "the model failed on this request (PROCESSING_ERROR)"},
    ]


async def test_closing_the_generator_lets_the_engine_go(make: Any) -> None:
    handler, engine = make(endless, step_s=0.001)
    before = counted("text", "stopped")
    pieces = start(handler, type="text", texts=["a", "b"], stream=True)
    await anext(pieces)
    await pieces.aclose()
    await until_all_are_cancelled(engine)
    assert counted("text", "stopped") == before + 1


async def test_a_job_whose_task_is_stopped_lets_the_engine_go(make: Any) -> None:
    handler, engine = make(endless, step_s=0.001)
    reading = asyncio.create_task(output(handler, type="text", text="a"))
    await until(lambda: bool(engine.generations))
    reading.cancel()
    await until_all_are_cancelled(engine)
    assert await asyncio.wait({reading}) and reading.cancelled()


async def test_a_job_that_was_stopped_before_it_began_does_nothing(make: Any) -> None:
    handler, engine = make()
    before = counted("text", "stopped")
    assert handler.stops_arrived(["j0", "j1"]) == []

    async def read() -> list[Piece]:
        return await output(handler, type="text", text="never asked")

    task = asyncio.create_task(read())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counted("text", "stopped") == before + 1
    assert engine.generations == []
    # A name that comes again is another job.
    assert (await output(handler, type="text", text="again"))[-1]["text"] == "again "


async def test_however_many_jobs_are_under_way_each_can_be_stopped(make: Any) -> None:
    handler, _ = make(endless, step_s=0.001, max_batch_size=1)
    names = [f"j{number}" for number in range(STOPS_REMEMBERED + 20)]
    jobs = [{"id": name, "input": {"type": "text", "text": "a"}} for name in names]
    tasks = [asyncio.create_task(anext(handler.handle(job))) for job in jobs]
    await asyncio.sleep(0.01)
    assert handler.stops_arrived(names) == names
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert handler.open_jobs == 0
    # Of those that are over, the last ones are known.
    assert handler.stops_arrived(names[-1:]) == names[-1:]


async def test_the_stop_of_a_job_under_way_is_not_kept_for_another_of_its_name(make: Any) -> None:
    handler, _ = make()
    assert (await output(handler, type="text", text="one"))[-1]["text"] == "one "
    assert handler.stops_arrived(["j1", "j2"]) == ["j1"]
    assert (await output(handler, type="text", text="two"))[-1]["text"] == "two "


async def test_a_job_stopped_while_its_piece_is_on_its_way_lets_the_engine_go(make: Any) -> None:
    handler, engine = make(endless, step_s=0.001)
    # What holds the generator keeps it from being closed, as the SDK's traceback does.
    held: list[AsyncGenerator[Piece, None]] = []

    async def read_as_the_sdk_does() -> None:
        held.append(start(handler, type="text", text="a", stream=True))
        async for _ in held[0]:
            await asyncio.Event().wait()

    reading = asyncio.create_task(read_as_the_sdk_does())
    await asyncio.sleep(0.2)
    assert engine.generations and not engine.generations[0].is_cancelled
    reading.cancel()
    await until_all_are_cancelled(engine)
    await held[0].aclose()


async def test_a_piece_that_is_never_taken_lets_the_engine_go_and_fails_the_job(make: Any) -> None:
    handler, engine = make(endless, step_s=0.001, stall_s=0.05)
    pieces = start(handler, type="text", text="a", stream=True)
    await anext(pieces)
    await until_all_are_cancelled(engine)
    assert [piece async for piece in pieces][-1] == {
        "error": "the output was not taken for 0.05 s (PROCESSING_ERROR)"
    }


async def test_a_slow_reader_loses_nothing_of_an_answer_that_is_done(make: Any) -> None:
    handler, _ = make(stall_s=0.05)
    pieces = start(handler, type="text", texts=["a", "b"])
    assert (await anext(pieces))["text"] == "a "
    await asyncio.sleep(0.1)
    assert [piece["text"] async for piece in pieces] == ["b "]


async def test_a_draining_worker_finishes_its_jobs(make: Any) -> None:
    handler, _ = make(step_s=0.01)
    reading = asyncio.create_task(output(handler, type="text", text="a b c"))
    await asyncio.sleep(0)
    handler.drain(5.0)
    handler.drain(0.0)
    assert [piece["text"] for piece in await reading] == ["a b c "]
    assert [piece["text"] for piece in await output(handler, type="text", text="d")] == ["d "]


async def test_what_cannot_be_finished_while_draining_fails_and_says_so(make: Any) -> None:
    handler, engine = make(endless, step_s=0.001)
    reading = asyncio.create_task(output(handler, type="text", text="a"))
    await asyncio.sleep(0.01)
    handler.drain(0.05)
    told = {
        "error": "the worker is stopping and the job could not be finished within 0.05 s "
        "(NOT_READY)"
    }
    assert await reading == [told]
    await until_all_are_cancelled(engine)
    assert await output(handler, type="text", text="later") == [told]


async def test_a_job_is_open_until_the_task_that_reads_it_is_over(make: Any) -> None:
    handler, _ = make()
    delivered = asyncio.Event()

    async def read_and_deliver() -> None:
        await output(handler, type="health")
        await delivered.wait()

    reading = asyncio.create_task(read_and_deliver())
    await asyncio.sleep(0.05)
    assert handler.open_jobs == 1
    delivered.set()
    await reading
    await asyncio.sleep(0)
    assert handler.open_jobs == 0


async def test_a_worker_without_a_server_leases_no_sessions(make: Any) -> None:
    handler, _ = make()
    assert await output(handler, type="session") == [
        {"error": "this worker serves no sessions (NOT_READY)"}
    ]
