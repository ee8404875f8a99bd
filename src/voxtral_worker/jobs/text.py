"""Answers the prompts of a job in parallel."""

import asyncio

from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.jobs.outlet import Outlet, piece_of
from voxtral_worker.jobs.schema import Prompt, TextJob
from voxtral_worker.jobs.speech import AnswerSpeaker


async def answer_texts(
    job: TextJob, engine: Engine, outlet: Outlet, at_once: int, speaker: AnswerSpeaker
) -> None:
    """Answer at most `at_once` prompts at a time, and hand out the answers in order.

    Raises the first error; the other generations are then cancelled.
    """
    waiting = iter(enumerate(job.prompts))
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[Answer]] = [loop.create_future() for _ in job.prompts]

    async def work() -> None:
        # All of these tasks share one iterator: each takes the next prompt as soon as it is free.
        for index, prompt in waiting:
            answers[index].set_result(await one(index, prompt))

    async def one(index: int, prompt: Prompt) -> Answer:
        def say(text: str) -> None:
            if job.stream:
                outlet.add_delta(index, text)

        return await answer(engine, prompt.conversation, job.sampling, prompt.field, say)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(min(at_once, len(job.prompts))):
                group.create_task(work(), name=f"texts {number}")
            # In order: a finished answer waits for the ones before it.
            for index, answered in enumerate(answers):
                outlet.add(await speaker.with_speech(piece_of(index, await answered)))
    except ExceptionGroup as errors:
        # The group has cancelled all other tasks. Callers expect the error itself.
        raise errors.exceptions[0] from None
