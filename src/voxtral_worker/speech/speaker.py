"""Speaks the answers of one session, one sentence at a time, never far ahead of the listener."""

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

# A piece is held back until it is known whether it is the last of its turn, but only while the
# listener has more than this left to play.
LEAST_AHEAD_S = 0.15


class Listener(Protocol):
    """Receives the speech. Its methods are called on the speaker's event loop."""

    def spoke(self, piece: SpokenPiece) -> None:
        """Send a piece, and note it in the playback."""

    def voice_failed(self, turn_id: str, error: WorkerError, *, is_news: bool) -> None:
        """The rest of a turn will not be spoken. `is_news`: the voice worked until now."""


class _Words:
    """The sentences of one turn, as they come; None marks the end."""

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
    """Speaks turns in the order in which they began. After `hush` it sends nothing more.

    It belongs to one event loop. The length of the answers bounds what waits.
    """

    def __init__(
        self,
        speech: Speech,
        playback: Playback,
        listener: Listener,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """If the speech of a turn fails, its rest is not spoken. The next turn is tried again."""
        self._speech = speech
        self._playback = playback
        self._listener = listener
        self._now_s = now_s
        self._turns: deque[_Words] = deque()
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None
        # Of the current turn: the piece that is held back because it may be the last, and the text
        # that has had no sound yet.
        self._held: SpokenPiece | None = None
        self._unsaid = ""

    @property
    def is_speaking(self) -> bool:
        """Whether any speech still has to be sent."""
        return bool(self._turns)

    def say(self, turn_id: str, text: str, format_: SpeechFormat) -> None:
        """Take more words of a turn. The format of its first words counts."""
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
            # Only `hush` removes turns elsewhere, and it cancels this task.
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
            # The listener has almost nothing left to play.
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
        """Send a piece, or hold it back because it may be the last."""
        text, self._unsaid = self._unsaid, ""
        await self._pass_on(SpokenPiece(words.turn_id, text, piece.data, piece.duration_ms))
        if self._playback.ahead_s(self._now_s()) < LEAST_AHEAD_S:
            await self._pass_on(None)

    async def _pass_on(self, piece: SpokenPiece | None) -> None:
        """Send the piece that is held, and hold another one."""
        held, self._held = self._held, piece
        if held is None:
            return
        while (wait_s := self._playback.wait_s(held.duration_ms, self._now_s())) > 0:
            await asyncio.sleep(wait_s)
        self._listener.spoke(held)

    async def _end_turn(self, words: _Words, encoder: SpeechEncoder) -> None:
        if self._held is None or self._unsaid:
            await self._pass_on(None)
            # The last piece was sent already, or the last words had no sound. So silence ends the
            # turn.
            silence = encoder.silence()
            self._held = SpokenPiece(words.turn_id, self._unsaid, silence.data, silence.duration_ms)
        self._held = replace(self._held, is_final=True)
        await self._pass_on(None)
