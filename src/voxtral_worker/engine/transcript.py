"""Transcribes a recording of any length, window by window, into one text."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.audio.aside import run_aside
from voxtral_worker.audio.stretches import Stretch
from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import SAMPLE_RATE, Audio, Conversation, UserTurn
from voxtral_worker.engine.language import language_of
from voxtral_worker.engine.request import Sampling, Usage

Samples: TypeAlias = NDArray[np.float32]

WINDOWS_AT_ONCE = 4
# Windows that are tried to detect the language.
LANGUAGE_WINDOWS = 3


@dataclass(frozen=True)
class Segment:
    """What was said in one window of the recording, from `start_s` to `end_s` in it."""

    start_s: float
    end_s: float
    answer: Answer


@dataclass(frozen=True)
class Transcript:
    """The text of all segments, and the tokens of all together.

    `language` is the one that was asked for, or the one that was detected in the first windows.
    """

    answer: Answer
    segments: tuple[Segment, ...]
    language: str | None = None


async def write_down(
    engine: Engine,
    samples: Samples,
    windows: Sequence[Stretch],
    sampling: Sampling,
    language: str | None,
    field: str,
    say: Callable[[str], None],
) -> Transcript:
    """The words of windows of a recording (float32, [n], 16 kHz); `say` hears them in order.

    Sound outside of windows adds no words. Without a `language`, the first windows are transcribed
    one by one until their words show it, and the others in that language. `sampling` is that of
    each window. Raises the first error, a BadInput with the name of `field`; the other windows are
    then dropped.
    """
    script = Script(say)
    places = asyncio.Semaphore(WINDOWS_AT_ONCE)

    async def one(index: int, language: str | None) -> Answer:
        window = windows[index]
        async with places:
            # A copy, as a view of one second would keep half an hour of sound alive.
            audio = Audio(samples[window.start : window.end].copy())
            conversation = Conversation(UserTurn((audio,)), transcribe=True, language=language)
            written = await answer(
                engine, conversation, sampling, field, partial(script.write, index)
            )
        script.finish(index)
        return written

    answers: list[Answer] = []
    while language is None and len(answers) < min(LANGUAGE_WINDOWS, len(windows) - 1):
        answers.append(await one(len(answers), None))
        language = await run_aside(lambda _: language_of(script.text))
    try:
        async with asyncio.TaskGroup() as group:
            numbers = range(len(answers), len(windows))
            tasks = [group.create_task(one(number, language)) for number in numbers]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    answers += [task.result() for task in tasks]
    return Transcript(_together(script.text, answers), _segments(windows, answers), language)


class Script:
    """Puts the words of windows that are transcribed at the same time in order.

    Words behind a window that is not finished are held back.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._current = 0
        self._held: dict[int, list[str]] = {}
        self._finished: set[int] = set()
        self._starts_window = False
        self.text = ""

    def write(self, index: int, text: str) -> None:
        """Take more words of a window."""
        if index != self._current:
            self._held.setdefault(index, []).append(text)
            return
        if self._starts_window and self.text:
            text = _spaced(self.text, text)
        self._starts_window = False
        self.text += text
        self._say(text)

    def finish(self, index: int) -> None:
        """Note that a window is finished, so that the next one may follow."""
        self._finished.add(index)
        while self._current in self._finished:
            self._current += 1
            self._starts_window = True
            for text in self._held.pop(self._current, []):
                self.write(self._current, text)


def _spaced(before: str, text: str) -> str:
    return text if before[-1:].isspace() or text[:1].isspace() else " " + text


def _segments(windows: Sequence[Stretch], answers: list[Answer]) -> tuple[Segment, ...]:
    return tuple(
        Segment(window.start / SAMPLE_RATE, window.end / SAMPLE_RATE, written)
        for window, written in zip(windows, answers, strict=True)
    )


def _together(text: str, answers: list[Answer]) -> Answer:
    usages = [answer.usage for answer in answers]
    return Answer(
        text,
        "length" if any(answer.finish_reason == "length" for answer in answers) else "stop",
        Usage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in usages),
            sum(usage.audio_tokens for usage in usages),
        ),
    )
