"""Turns a session's audio bytes into frames with speech probabilities, and feeds them to it.

It also notices when the stream of audio stops within a turn.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voxtral_worker import metrics
from voxtral_worker.audio.stream import AudioStream
from voxtral_worker.audio.watch import FormatWatch
from voxtral_worker.errors import BadAudio, WorkerError
from voxtral_worker.sessions.effects import Effect
from voxtral_worker.sessions.session import Session
from voxtral_worker.turns.events import SpeechPaused

if TYPE_CHECKING:
    # For types only: they import PyTorch, and the server must listen before that is loaded.
    from voxtral_worker.turns.completeness import Completeness
    from voxtral_worker.turns.vad import Vad

# The VAD gets at most so many frames of one session at a time, so that a long chunk does not make
# other sessions wait.
FRAMES_AT_ONCE = 64
# A pause is decided without its score if the score takes longer than this.
SCORE_PATIENCE_S = 0.4
# If a timer of the event loop is later than this, the loop is busy, and audio that has arrived may
# not have been read yet.
LATE_S = 0.1


class Ears:
    """Processes one chunk at a time. Meantime it does not watch for stalls."""

    def __init__(
        self,
        session: Session,
        vad: "Vad",
        scorer: "Completeness | None",
        context: Context,
        perform: Callable[[list[Effect]], None],
        *,
        is_open: Callable[[], bool],
        is_behind: Callable[[], bool],
    ) -> None:
        """`perform` performs the session's effects, in its logging `context`.

        `is_open`: whether an audio connection is open. `is_behind`: whether items that have
        arrived still wait to be processed.
        """
        self._session = session
        self._vad = vad
        self._scorer = scorer
        # The pause that is being scored, its future score, and when that was asked for.
        self._asked: tuple[SpeechPaused, asyncio.Future[float | None], float] | None = None
        self._context = context
        self._perform = perform
        self._is_open = is_open
        self._is_behind = is_behind
        self._loop = asyncio.get_running_loop()
        self._stream = AudioStream(session.config.encoding, session.config.sample_rate)
        self._format = (session.config.encoding, session.config.sample_rate)
        self._watch = FormatWatch(session.config.encoding)
        self._stall_timer: asyncio.TimerHandle | None = None

    def look_anew(self) -> None:
        """Check the format again: another stream of audio begins."""
        self._watch = FormatWatch(self._session.config.encoding)

    def look(self, chunk: bytes, refuse: Callable[[WorkerError], None]) -> None:
        """Report once if a stream seems to have another format. Its audio is still used."""
        if (told := self._watch.look(chunk)) is not None:
            refuse(BadAudio(told))

    async def hear(self, chunk: bytes, refuse: Callable[[WorkerError], None]) -> None:
        """Process a chunk in the session's format. `refuse` gets the error of a wrong format.

        Raises RateLimited, BadAudio or EngineFailure.
        """
        # Audio has come and is being processed. If that takes long, the worker is late and not
        # the client, so the stream has not stalled.
        self.stop_watching()
        try:
            self._use_format()
            self.look(chunk, refuse)
            await self._hear_chunk(chunk)
        finally:
            self.watch_for_stall()

    def count(self, chunk: bytes) -> None:
        """Count a chunk as received."""
        self._session.listening.audio_bytes_received += len(chunk)
        metrics.audio_bytes.inc(len(chunk))

    def ask_for_score(self, pause: SpeechPaused, samples: NDArray[np.float32]) -> None:
        """Ask for the score of a pause. No one waits for it before it is due."""
        if self._scorer is None:
            # The session began at another worker, which has a model for scores. This one has none.
            score: asyncio.Future[float | None] = self._loop.create_future()
            score.set_result(None)
        else:
            score = self._scorer.ask(samples)
        self._asked = (pause, score, time.monotonic())
        score.add_done_callback(partial(self._tell_score, pause), context=self._context)

    def watch_for_stall(self) -> None:
        """Start to watch whether audio keeps coming, if its end would end a turn."""
        self.stop_watching()
        if self._session.listening.may_stall and self._is_open():
            self._look_for_stall_in(self._session.listening.stall_s)

    def stop_watching(self) -> None:
        """Stop watching for a stall."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    async def _hear_chunk(self, chunk: bytes) -> None:
        started_s = time.monotonic()
        frames = self._stream.push(chunk)
        try:
            self._session.listening.require_room(frames.nbytes)
        except WorkerError:
            # End the open turn here. Its answer frees its audio, and may so make room.
            self._perform(self._session.listening.stall(time.monotonic()))
            raise
        self.count(chunk)
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            end = min(start + FRAMES_AT_ONCE, len(frames))
            await self._hear_frames(frames[start:end], more_frames=len(frames) - end)
        metrics.audio_processing.observe(time.monotonic() - started_s)

    def _use_format(self) -> None:
        config = self._session.config
        if self._format != (config.encoding, config.sample_rate):
            self._format = (config.encoding, config.sample_rate)
            self._stream = AudioStream(config.encoding, config.sample_rate)
            self.look_anew()

    async def _hear_frames(self, frames: NDArray[np.float32], more_frames: int) -> None:
        listening = self._session.listening
        probabilities = (await self._vad.listen(self._session.session_id, frames)).tolist()
        # `listening.hear` stops before a frame for which a score is due. Wait for the score, then
        # continue with the rest.
        start = listening.detector.frames_heard
        while (heard := listening.detector.frames_heard - start) < len(frames):
            if listening.scoring.is_due:
                await self._wait_for_score()
            effects = listening.hear(
                frames[heard:], probabilities[heard:], time.monotonic(), more_frames=more_frames
            )
            self._perform(effects)

    async def _wait_for_score(self) -> None:
        """Wait until the pause has its score, at most `SCORE_PATIENCE_S` after it was asked for."""
        # A score is due only after a Score effect, and that effect has set it.
        assert self._asked is not None
        pause, score, since_s = self._asked
        wait_s = since_s + SCORE_PATIENCE_S - time.monotonic()
        await asyncio.wait([score], timeout=max(0.0, wait_s))
        self._tell_score(pause, score)

    def _tell_score(self, pause: SpeechPaused, score: "asyncio.Future[float | None]") -> None:
        value = score.result() if score.done() and not score.cancelled() else None
        self._perform(self._session.listening.scoring.tell(pause, value, time.monotonic()))

    def _look_for_stall_in(self, wait_s: float) -> None:
        due_s = self._loop.time() + wait_s
        self._stall_timer = self._loop.call_at(due_s, self._stall, due_s, context=self._context)

    def _stall(self, due_s: float) -> None:
        # If the loop is late or items wait in the inbox, audio may have come that was not processed
        # yet: look again a little later.
        is_late = self._loop.time() - due_s > LATE_S
        if is_late or self._is_behind():
            self._look_for_stall_in(LATE_S)
        else:
            self._perform(self._session.listening.stall(time.monotonic()))
