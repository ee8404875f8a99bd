"""Speaks the answers of one session, a sentence at a time and never far ahead of its listener."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from voxtral_worker.errors import WorkerError
from voxtral_worker.speech.encoding import Piece, SpeechEncoder
from voxtral_worker.speech.pieces import SpeechFormat, SpokenPiece
from voxtral_worker.speech.playback import Playback
from voxtral_worker.speech.sentences import SentenceSplitter
from voxtral_worker.speech.speech import Speech

# With less than this ahead, a piece is not held back to learn whether it is the last.
LEAST_AHEAD_S = 0.15


class Listener(Protocol):
    """Gets the speech; its methods are called on the loop of the speaker."""

    def spoke(self, piece: SpokenPiece) -> None:
        """Send a piece, and note it in the playback."""

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> None:
        """The rest of a turn is not spoken; `is_news`: the voice has worked until now."""


class _Words:
    """The sentences of one turn as they come; None is their end."""

    def __init__(self, turn_id: str, format_: SpeechFormat) -> None:
        self.turn_id = turn_id
        self.format = format_
        self.has_ended = False
        self.is_given_up = False
        self.sentences: asyncio.Queue[str | None] = asyncio.Queue()
        self._splitter = SentenceSplitter(format_.language, is_early=True)

    def add(self, text: str) -> None:
        if not self.is_given_up:
            self._put(self._splitter.push(text))

    def end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self._put([*self._splitter.finish(), None])

    def _put(self, sentences: Iterable[str | None]) -> None:
        for sentence in sentences:
            self.sentences.put_nowait(sentence)


class Speaker:
    """Turns are spoken in the order in which they began; after `hush` nothing more is sent.

    It belongs to one event loop. What waits is bounded by the length of the answers.
    """

    def __init__(
        self,
        speech: Speech,
        playback: Playback,
        listener: Listener,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """The rest of a turn whose speech has failed is not spoken; the next is tried."""
        self._speech = speech
        self._playback = playback
        self._listener = listener
        self._now_s = now_s
        self._turns: deque[_Words] = deque()
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None
        # Of the turn that is spoken: its piece that may be the last one, and text without a sound.
        self._held: SpokenPiece | None = None
        self._unsaid = ""

    @property
    def is_speaking(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._turns)

    def say(self, turn_id: str, text: str, format_: SpeechFormat) -> None:
        """More words of a turn; the format is that of its first ones."""
        if not self._turns or self._turns[-1].turn_id != turn_id:
            self._turns.append(_Words(turn_id, format_))
        self._turns[-1].add(text)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="speaker")

    def end(self, turn_id: str) -> None:
        """All words of a turn are said."""
        for words in self._turns:
            if words.turn_id == turn_id:
                words.end()

    def hush(self) -> None:
        """Forget what was to be said. Nothing is sent after this, until more is said."""
        self._turns.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def close(self) -> None:
        """Hush, and wait for the end of it."""
        task = self._task
        self.hush()
        if task is not None:
            await asyncio.wait([task])

    async def _work(self) -> None:
        while self._turns:
            await self._speak(self._turns[0])
            # Only `hush` takes a turn out elsewhere, and it ends this task.
            self._turns.popleft()
        self._task = None

    async def _speak(self, words: _Words) -> None:
        self._held, self._unsaid = None, ""
        encoder = SpeechEncoder(words.format.encoding, words.format.sample_rate)
        try:
            while (sentence := await self._next_sentence(words)) is not None:
                await self._say_sentence(words, sentence, encoder)
        except WorkerError as error:
            words.is_given_up = True
            is_news, self._is_failing = not self._is_failing, True
            self._listener.voice_failed(words.turn_id, error, is_news=is_news)
        await self._end_turn(words, encoder)
        if words.is_given_up:
            while await words.sentences.get() is not None:
                pass

    async def _next_sentence(self, words: _Words) -> str | None:
        if self._held is not None:
            left_s = self._playback.ahead_s(self._now_s()) - LEAST_AHEAD_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s)):
                    return await words.sentences.get()
            # The listener would fall silent for want of it.
            await self._pass_on(None)
        return await words.sentences.get()

    async def _say_sentence(self, words: _Words, sentence: str, encoder: SpeechEncoder) -> None:
        self._unsaid += sentence
        async with aclosing(
            self._speech.say(sentence, words.format.voice, words.format.speed)
        ) as said:
            async for samples in said:
                for piece in encoder.push(samples):
                    await self._offer(words, piece)
        for piece in encoder.end_sentence():
            await self._offer(words, piece)
        self._is_failing = False

    async def _offer(self, words: _Words, piece: Piece) -> None:
        """Send a piece, or hold it back, because it may be the last."""
        text, self._unsaid = self._unsaid, ""
        await self._pass_on(SpokenPiece(words.turn_id, text, piece.data, piece.duration_ms))
        if self._playback.ahead_s(self._now_s()) < LEAST_AHEAD_S:
            await self._pass_on(None)

    async def _pass_on(self, piece: SpokenPiece | None) -> None:
        """Send what is held, and hold something else."""
        held, self._held = self._held, piece
        if held is None:
            return
        while (wait_s := self._playback.wait_s(held.duration_ms, self._now_s())) > 0:
            await asyncio.sleep(wait_s)
        self._listener.spoke(held)

    async def _end_turn(self, words: _Words, encoder: SpeechEncoder) -> None:
        if self._held is None or self._unsaid:
            await self._pass_on(None)
            # The last piece is gone already, or words had no sound: what ends the turn is silent.
            silence = encoder.silence()
            self._held = SpokenPiece(words.turn_id, self._unsaid, silence.data, silence.duration_ms)
        self._held = replace(self._held, is_final=True)
        await self._pass_on(None)
