"""Writes down, or answers questions about, the recording of a job."""

import asyncio
import base64
import binascii
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.clips import read_clip
from voxtral_worker.engine.conversation import Audio, Conversation, UserTurn
from voxtral_worker.engine.request import Usage
from voxtral_worker.errors import BadInput
from voxtral_worker.jobs.aside import run_aside
from voxtral_worker.jobs.fetch import MAX_SECONDS, fetch
from voxtral_worker.jobs.generating import Answer, Engine, answer
from voxtral_worker.jobs.outlet import Outlet
from voxtral_worker.jobs.pauses import cut_at_pauses
from voxtral_worker.jobs.schema import AudioJob, AudioSource, TranscribeJob

Samples: TypeAlias = NDArray[np.float32]

MAX_AUDIO_S = 30 * 60
# Half an hour of samples takes 115 MB, and several times that while it is decoded.
RECORDINGS_AT_ONCE = 4
WINDOWS_AT_ONCE = 4


class Recordings:
    """At most four recordings are held at a time, over all jobs."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(RECORDINGS_AT_ONCE)

    @contextlib.asynccontextmanager
    async def opened(self, source: AudioSource) -> AsyncIterator[Samples]:
        """The recording, float32 [n], 16 kHz; may have to wait for its place.

        Raises BadInput that names the field.
        """
        async with self._places:
            try:
                async with asyncio.timeout(2 * MAX_SECONDS):
                    samples = await run_aside(partial(read_source, source))
            except TimeoutError:
                raise BadInput(f"{source.field}: reading it took too long") from None
            yield samples


def read_source(source: AudioSource, is_over: threading.Event) -> Samples:
    """Samples, float32 [n], 16 kHz, of a job's recording. Blocks.

    Raises BadInput that names the field.
    """
    try:
        is_url = source.field == "audio_url"
        data = fetch(source.value, is_over) if is_url else _decode(source.value)
        return read_clip(data, max_seconds=MAX_AUDIO_S)
    except BadInput as error:
        raise type(error)(f"{source.field}: {error.message}") from None


async def transcribe(
    job: TranscribeJob, engine: Engine, outlet: Outlet, recordings: Recordings
) -> None:
    """Write a recording down, window by window, and hand out one text.

    Raises the first error; the other windows are then let go.
    """
    async with recordings.opened(job.source) as samples:
        script = Script(partial(outlet.add_delta, 0) if job.stream else _say_nothing)
        places = asyncio.Semaphore(WINDOWS_AT_ONCE)

        async def one(index: int, window: Samples) -> Answer:
            async with places:
                conversation = Conversation(
                    UserTurn((Audio(window),)), transcribe=True, language=job.options.language
                )
                say = partial(script.write, index)
                sampling, field = job.options.sampling, job.source.field
                written = await answer(engine, conversation, sampling, field, say)
            script.finish(index)
            return written

        try:
            async with asyncio.TaskGroup() as group:
                windows = enumerate(cut_at_pauses(samples))
                tasks = [group.create_task(one(index, window)) for index, window in windows]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        outlet.add(_together(script.text, [task.result() for task in tasks]).as_piece(0))


async def answer_about_audio(
    job: AudioJob, engine: Engine, outlet: Outlet, recordings: Recordings
) -> None:
    """Hand out the answer to a question about the whole recording.

    Raises TooLarge when recording and question do not fit the context.
    """
    async with recordings.opened(job.source) as samples:
        question = () if job.question is None else (job.question,)
        options = job.options
        conversation = Conversation(
            UserTurn((Audio(samples), *question)),
            system_prompt=options.system_prompt,
            language=options.language,
        )
        say = partial(outlet.add_delta, 0) if job.stream else _say_nothing
        made = await answer(engine, conversation, options.sampling, job.source.field, say)
        outlet.add(made.as_piece(0))


class Script:
    """Puts the words of windows that are written down side by side in their order.

    What belongs behind a window that is not finished is held back.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._current = 0
        self._held: dict[int, list[str]] = {}
        self._finished: set[int] = set()
        self._starts_window = False
        self.text = ""

    def write(self, index: int, text: str) -> None:
        """More words of a window."""
        if index != self._current:
            self._held.setdefault(index, []).append(text)
            return
        if self._starts_window and self.text:
            text = _spaced(self.text, text)
        self._starts_window = False
        self.text += text
        self._say(text)

    def finish(self, index: int) -> None:
        """A window is whole; those behind it may follow."""
        self._finished.add(index)
        while self._current in self._finished:
            self._current += 1
            self._starts_window = True
            for text in self._held.pop(self._current, []):
                self.write(self._current, text)


def _spaced(before: str, text: str) -> str:
    return text if before[-1:].isspace() or text[:1].isspace() else " " + text


def _together(text: str, answers: list[Answer]) -> Answer:
    usages = [answer.usage for answer in answers]
    return Answer(
        text,
        "length" if any(answer.finish_reason == "length" for answer in answers) else "stop",
        Usage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in usages),
        ),
    )


def _decode(text: str) -> bytes:
    """Bytes of base64, with line breaks or as a `data:` address if it comes so."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("this is not base64") from None


def _say_nothing(_: str) -> None:
    """The words are handed out once they are whole."""
