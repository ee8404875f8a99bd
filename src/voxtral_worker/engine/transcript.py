"""Writes a recording of any length down, window by window, as one text."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxtral_worker.engine.answer import Answer, Engine, answer
from voxtral_worker.engine.conversation import SAMPLE_RATE, Audio, Conversation, UserTurn
from voxtral_worker.engine.pauses import cut_at_pauses
from voxtral_worker.engine.request import Sampling, Usage

Samples: TypeAlias = NDArray[np.float32]

WINDOWS_AT_ONCE = 4


@dataclass(frozen=True)
class Segment:
    """What was said in one window of the recording, [`start_s`, `end_s`)."""

    start_s: float
    end_s: float
    answer: Answer


@dataclass(frozen=True)
class Transcript:
    """The text of all segments, and what it cost together."""

    answer: Answer
    segments: tuple[Segment, ...]


async def write_down(
    engine: Engine,
    samples: Samples,
    sampling: Sampling,
    language: str | None,
    field: str,
    say: Callable[[str], None],
) -> Transcript:
    """The words of a recording (float32, [n], 16 kHz); `say` hears them in order.

    `sampling` is that of each window. Raises the first error, a BadInput with the name of
    `field`; the other windows are then let go.
    """
    script = Script(say)
    places = asyncio.Semaphore(WINDOWS_AT_ONCE)

    async def one(index: int, window: Samples) -> Answer:
        async with places:
            conversation = Conversation(
                UserTurn((Audio(window),)), transcribe=True, language=language
            )
            written = await answer(
                engine, conversation, sampling, field, partial(script.write, index)
            )
        script.finish(index)
        return written

    windows = list(cut_at_pauses(samples))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*numbered)) for numbered in enumerate(windows)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    answers = [task.result() for task in tasks]
    return Transcript(_together(script.text, answers), _segments(windows, answers))


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


def _segments(windows: list[Samples], answers: list[Answer]) -> tuple[Segment, ...]:
    segments, start = [], 0
    for window, written in zip(windows, answers, strict=True):
        stop = start + len(window)
        segments.append(Segment(start / SAMPLE_RATE, stop / SAMPLE_RATE, written))
        start = stop
    return tuple(segments)


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
