"""Answers the texts of a job side by side."""

import asyncio

from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.jobs.outlet import Outlet, piece_of
from voxtral_worker.jobs.schema import Prompt, TextJob


async def answer_texts(job: TextJob, engine: Engine, outlet: Outlet, at_once: int) -> None:
    """Submit the prompts together, at most `at_once`, and hand out the answers in order.

    Raises the first error; the other generations are then let go.
    """
    places = asyncio.Semaphore(at_once)

    async def one(index: int, prompt: Prompt) -> Answer:
        def say(text: str) -> None:
            if job.stream:
                outlet.add_delta(index, text)

        async with places:
            return await answer(engine, prompt.conversation, job.sampling, prompt.field, say)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(one(index, prompt), name=prompt.field)
                for index, prompt in enumerate(job.prompts)
            ]
            for index, task in enumerate(tasks):
                outlet.add(piece_of(index, await task))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
